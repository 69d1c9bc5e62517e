package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func gatewayResetCommand() *cli.Command {
	return &cli.Command{
		Name: "reset", Usage: "take this gateway out of its cluster, and stop it",
		Description: "Its devices are handed to the others, who forget it. What it was is kept beside. Started again it keeps its\n" +
			"name, ports and public address; without further flags it begins a new cluster, with --join or --key it joins one.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Usage: "also while other gateways are connected"},
			jsonFlag,
		},
		Action: gatewayReset,
	}
}

func gatewayReset(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		r, err := s.ResetGateway(c.Context, api.Reset{Force: c.Bool("force")})
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, r)
		}
		_, err = fmt.Fprintf(c.App.Writer, "left   cluster %s\nmoved  %d devices\nsaved  %s\n", r.Cluster, r.Moved, r.Saved)
		fmt.Fprintf(c.App.ErrWriter, "The gateway stops. `gatemesh up` begins a new cluster with it, --join or --key joins one.\n")
		if r.Left > 0 {
			fmt.Fprintf(c.App.ErrWriter, "%d devices were not heard by another gateway yet.\n", r.Left)
		}
		return err
	})
}
