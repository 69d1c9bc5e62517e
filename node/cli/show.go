package cli

import (
	"fmt"

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
					"cluster    %s\ngateway    %s, %s\nready      %v\ngateways   %d alive\ndevices    %d\nsessions   %d\npool       %s\ndata plane %s\nversion    %s\n",
					st.Cluster, st.Gateway, st.Role, st.Ready, st.Gateways, st.Devices, st.Sessions, st.Pool, st.Dataplane,
					versionText(st))
				if err == nil && st.NotReady != "" {
					_, err = fmt.Fprintf(c.App.Writer, "not ready  %s\n", st.NotReady)
				}
				if err == nil && st.Disk.ReadOnly {
					_, err = fmt.Fprintf(c.App.Writer, "disk       nearly full: %s free, %s needed; no changes are taken\n",
						bytesText(st.Disk.Free), bytesText(st.Disk.Needed))
				}
				for _, t := range st.Twins {
					age := "younger"
					if t.Older {
						age = "older"
					}
					if err == nil {
						_, err = fmt.Fprintf(c.App.Writer, "beware     another cluster with the same key is on the LAN: %s, %s, seen at %s\n", t.Cluster, age, t.Gateway)
					}
				}
				return err
			})
		},
	}
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
