package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func conflictsCommand() *cli.Command {
	return &cli.Command{
		Name: "conflicts", Usage: "list what gateways did without knowing of each other",
		Description: "A write that was overwritten by a gateway that had not seen it is kept here, until it is resolved. So are\n" +
			"devices with one name, a device that had to take another address, and what a gateway wrote whose clock is\n" +
			"more than a day ahead. All gateways list the same; the newest 1000 are kept.",
		Flags: listFlags(), Action: conflictsList,
		Subcommands: []*cli.Command{{
			Name: "resolve", Usage: "let one side stand and end the conflict", ArgsUsage: "ID",
			Description: "ID is the beginning of a conflict's id, at least 6 digits.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "take", Usage: "the `SIDE` that is to stand: winner is what stands, other what does not", Value: api.TakeWinner},
				jsonFlag,
			},
			Action: conflictsResolve,
		}},
	}
}

func conflictsList(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		return usagef("there is no command %q", name)
	}
	get := func(ctx context.Context, s api.Service) ([]api.Conflict, error) { return s.ListConflicts(ctx) }
	return list(c, get, func(w io.Writer, all []api.Conflict) error {
		rows := make([]table.Row, 0, len(all))
		for _, x := range all {
			rows = append(rows, table.Row{
				x.ID[:min(len(x.ID), 8)], x.Kind, x.Name, dash(x.Field), x.Reason,
				sideText(x.Stands), writtenText(x.Stands), sideText(x.Other), writtenText(x.Other),
			})
		}
		return printTable(w, table.Row{"id", "kind", "name", "field", "reason", "stands", "written", "other", "written"},
			rows)
	})
}

func conflictsResolve(c *cli.Context) error {
	id, err := oneArg(c, "the conflict's id")
	if err != nil {
		return err
	}
	take := c.String("take")
	if take != api.TakeWinner && take != api.TakeOther {
		return usagef("--take is winner or other, not %q", take)
	}
	return ask(c, func(s api.Service) error {
		x, err := s.ResolveConflict(c.Context, id, api.Resolution{Take: take})
		if err != nil || !c.Bool("json") {
			return err
		}
		return printJSON(c.App.Writer, x)
	})
}

// sideText is a value on one line.
func sideText(s api.Side) string {
	switch {
	case s.Secret:
		return "(secret)"
	case s.At == nil:
		return "-"
	}
	text := s.Value
	if q := strconv.Quote(text); q != `"`+text+`"` || strings.Contains(text, " ") || text == "" {
		text = q
	}
	if r := []rune(text); len(r) > 40 {
		text = string(r[:39]) + "…"
	}
	return text
}

func writtenText(s api.Side) string {
	if s.At == nil {
		return "-"
	}
	return fmt.Sprintf("%s by %s", s.At.UTC().Format(time.RFC3339), s.Gateway)
}

func addressCommand() *cli.Command {
	return &cli.Command{
		Name: "address", Usage: "see the addresses inside the tunnel",
		Subcommands: []*cli.Command{{
			Name: "list", Usage: "list addresses and who has them", Flags: listFlags(), Action: addressList,
		}},
	}
}

func addressList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	get := func(ctx context.Context, s api.Service) ([]api.Address, error) { return s.ListAddresses(ctx) }
	return list(c, get, func(w io.Writer, all []api.Address) error {
		rows := make([]table.Row, 0, len(all))
		for _, a := range all {
			state := "kept"
			switch {
			case !a.Keeps:
				state = "lost"
			case a.Contested:
				state = "contested"
			}
			rows = append(rows, table.Row{a.Address, a.Device, state, a.Why, a.ID})
		}
		return printTable(w, table.Row{"address", "device", "state", "why", "id"}, rows)
	})
}
