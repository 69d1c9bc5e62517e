package cli

import (
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func clusterCommand() *cli.Command {
	return &cli.Command{
		Name: "cluster", Usage: "the rules of the cluster",
		Subcommands: []*cli.Command{
			{Name: "show", Usage: "list the settings", Flags: []cli.Flag{jsonFlag}, Action: clusterShow},
			{
				Name: "set", Usage: "change settings", ArgsUsage: "NAME VALUE | NAME=VALUE…",
				Description: "`gatemesh cluster show` lists the names. They hold for all gateways, whichever is asked.",
				Flags:       []cli.Flag{jsonFlag}, Action: clusterSet,
			},
		},
	}
}

func clusterShow(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		all, err := s.ListSettings(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, all)
		}
		rows := make([]table.Row, 0, len(all))
		for _, x := range all {
			if x.Value == "" {
				x.Value = x.Empty
			}
			rows = append(rows, table.Row{x.Name, dash(x.Value), x.Meaning})
		}
		return printTable(c.App.Writer, table.Row{"name", "value", "meaning"}, rows)
	})
}

func clusterSet(c *cli.Context) error {
	values, args := map[string]string{}, c.Args().Slice()
	if len(args) == 2 && !strings.Contains(args[0], "=") {
		args = []string{args[0] + "=" + args[1]}
	}
	for _, a := range args {
		name, v, ok := strings.Cut(a, "=")
		if _, twice := values[name]; !ok || name == "" || twice {
			return usagef("%s takes NAME VALUE, or NAME=VALUE once for each name, not %q", command(c), a)
		}
		values[name] = v
	}
	if len(values) == 0 {
		return usagef("%s takes NAME VALUE, or NAME=VALUE once for each name", command(c))
	}
	return ask(c, func(s api.Service) error {
		out, err := s.ChangeSettings(c.Context, values)
		if err != nil {
			return err
		}
		return printChanges(c, out.Changes)
	})
}
