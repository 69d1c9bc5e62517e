package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func drainCommand() *cli.Command {
	return &cli.Command{
		Name: "drain", Usage: "give the devices of this gateway to others, and take no new ones",
		Description: "It returns when the devices are served by other gateways; none of them shakes hands for it. The end of\n" +
			"`gatemesh up` by a signal does the same first.",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "undo", Usage: "take devices again"}, jsonFlag},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return ask(c, func(s api.Service) error {
				d, err := s.Drain(c.Context, api.Drain{Undo: c.Bool("undo")})
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, d)
				}
				_, err = fmt.Fprintf(c.App.Writer, "moved %d\nleft  %d\n", d.Moved, d.Left)
				return err
			})
		},
	}
}
