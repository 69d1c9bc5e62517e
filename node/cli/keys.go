package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func keysCommand() *cli.Command {
	return &cli.Command{
		Name: "keys", Usage: "see and replace the secrets that the gateways share",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the keys that hold; their secrets are not shown", Flags: []cli.Flag{jsonFlag},
				Action: keysList,
			},
			{Name: "status", Usage: "show how far the replacement of keys is", Flags: []cli.Flag{jsonFlag}, Action: keysStatus},
			{
				Name: "rotate", Usage: "replace the gossip key or the cluster key", ArgsUsage: "gossip|cluster",
				Description: "The new key is installed at all gateways, then used, and the old one is removed when all use the new one. A\n" +
					"gateway that is away is waited for; it gets the new key by itself when it is back. With --force the old key\n" +
					"goes without it, and it comes back all the same. A new cluster key ends the join tokens made under the old one.",
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "force", Usage: "leave this `GATEWAY` behind; may be repeated"}, jsonFlag,
				},
				Action: keysRotate,
			},
		},
	}
}

func keysList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		r, err := s.KeyRing(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, r.Keys)
		}
		return printKeys(c, r)
	})
}

func printKeys(c *cli.Context, r api.KeyRing) error {
	rows := make([]table.Row, 0, len(r.Keys))
	for _, k := range r.Keys {
		made := "with the cluster"
		if k.Made != nil {
			made = ago(k.Made, time.Now()) + " at " + k.By
		}
		rows = append(rows, table.Row{
			k.Kind, k.ID[:12], k.State, made, fmt.Sprintf("%d/%d", k.Held, k.Of), fmt.Sprintf("%d/%d", k.Used, k.Of),
		})
	}
	return printTable(c.App.Writer, table.Row{"kind", "id", "state", "made", "held by", "used by"}, rows)
}

func keysStatus(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		r, err := s.KeyRing(c.Context)
		if err != nil {
			return err
		}
		return printStatus(c, r)
	})
}

func printStatus(c *cli.Context, r api.KeyRing) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, r)
	}
	for _, s := range r.Status {
		if _, err := fmt.Fprintf(c.App.Writer, "%-8s %s\n", s.Kind, turning(s)); err != nil {
			return err
		}
	}
	return nil
}

// turning is how far a replacement is, in words.
func turning(s api.KeyStatus) string {
	if !s.Turning {
		return "one key, in use everywhere"
	}
	if len(s.Waits) == 0 {
		return "the old key is about to be removed"
	}
	var names []string
	away := false
	for _, w := range s.Waits {
		name := w.Name
		if name == "" {
			name = w.ID
		}
		if !w.Present {
			name, away = name+" (away)", true
		}
		names = append(names, name)
	}
	text := "the old key is kept for " + strings.Join(names, ", ")
	if away {
		text += "; --force goes on without"
	}
	return text
}

func keysRotate(c *cli.Context) error {
	kind, err := oneArg(c, "gossip or cluster")
	if err != nil {
		return err
	}
	if kind != api.KeyGossip && kind != api.KeyCluster {
		return usagef("there are no keys of kind %q: it is gossip or cluster", kind)
	}
	return ask(c, func(s api.Service) error {
		r, err := s.RotateKey(c.Context, kind, api.Rotation{Behind: c.StringSlice("force")})
		if err != nil {
			return err
		}
		return printStatus(c, r)
	})
}
