package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

func drainCommand() *cli.Command {
	return &cli.Command{
		Name: "drain", Usage: "give the devices of this gateway to others, and take no new ones",
		Description: "It returns when other gateways have heard the devices, or when no more of them go; those that are left are\n" +
			"tried on until --undo. A device keeps its keys meanwhile and gets new ones from its new gateway a few\n" +
			"seconds later. The end of `gatemesh up` by a signal does the same first.",
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
					err = printJSON(c.App.Writer, d)
				} else {
					_, err = fmt.Fprintf(c.App.Writer, "moved %d\nleft  %d\n", d.Moved, d.Left)
				}
				if err != nil || d.Left == 0 || c.Bool("undo") {
					return err
				}
				return &node.HintError{
					Err:  fmt.Errorf("%d devices are not at another gateway yet", d.Left),
					Hint: "they are tried on; one that is off, or that only this gateway reaches, stays until its keys end",
				}
			})
		},
	}
}
