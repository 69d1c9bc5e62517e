package cli

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the cluster as one", Flags: []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return ask(c, func(s api.Service) error {
				st, err := s.Status(c.Context)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, st)
				}
				_, err = fmt.Fprintf(c.App.Writer,
					"cluster    %s\ngateway    %s\nready      %v\ngateways   %d alive\ndevices    %d\nsessions   %d\npool       %s\ndata plane %s\nversion    %s\n",
					st.Cluster, st.Gateway, st.Ready, st.Gateways, st.Devices, st.Sessions, st.Pool, st.Dataplane, st.Version)
				if err == nil && st.NotReady != "" {
					_, err = fmt.Fprintf(c.App.Writer, "not ready  %s\n", st.NotReady)
				}
				if err == nil && st.Disk.ReadOnly {
					_, err = fmt.Fprintf(c.App.Writer, "disk       nearly full: %s free, %s needed; no changes are taken\n",
						bytesText(st.Disk.Free), bytesText(st.Disk.Needed))
				}
				return err
			})
		},
	}
}

func gatewayCommand() *cli.Command {
	return &cli.Command{
		Name: "gateway", Usage: "see the gateways of the cluster",
		Subcommands: []*cli.Command{{
			Name: "list", Usage: "list gateways", Flags: []cli.Flag{jsonFlag}, Action: gatewayList,
		}, gatewayAddCommand(), gatewayResetCommand()},
	}
}

func gatewayList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		gateways, err := s.ListGateways(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, gateways)
		}
		rows := make([]table.Row, 0, len(gateways))
		for _, g := range gateways {
			rows = append(rows, table.Row{
				g.Name, state(g), fmt.Sprintf("%d/%d", g.Sessions, g.Capacity), dash(g.Public), dash(g.Mesh),
				g.OS + "/" + g.Arch, dash(g.Version), g.ID,
			})
		}
		return printTable(c.App.Writer, table.Row{"name", "state", "sessions", "public", "mesh", "system", "version", "id"}, rows)
	})
}

func keyCommand() *cli.Command {
	return &cli.Command{
		Name: "key", Usage: "the secret with which gateways join",
		Subcommands: []*cli.Command{{
			Name: "show", Usage: "print the cluster key",
			Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				return ask(c, func(s api.Service) error {
					k, err := s.ClusterKey(c.Context)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintln(c.App.Writer, k.Key)
					return err
				})
			},
		}},
	}
}

// state is what a gateway is doing, in a word.
func state(g api.Gateway) string {
	switch {
	case g.State == api.Alive && g.Draining:
		return "draining"
	case g.State == api.Alive && g.ReadOnly:
		return "read-only"
	}
	return g.State
}
