package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func syncCommand() *cli.Command {
	return &cli.Command{
		Name: "sync", Usage: "see how far the gateways are with what was changed",
		Subcommands: []*cli.Command{{
			Name: "status", Usage: "show how far the others are, seen from this gateway",
			Flags: listFlags(), Action: syncStatus,
		}},
	}
}

func syncStatus(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	get := func(ctx context.Context, s api.Service) (api.Sync, error) { return s.SyncStatus(ctx) }
	return list(c, get, func(w io.Writer, st api.Sync) error {
		now := time.Now()
		rows := make([]table.Row, 0, len(st.Peers))
		for _, p := range st.Peers {
			rows = append(rows, table.Row{
				dash(p.Name), syncState(p), lacksText(p.Lacks), p.Ahead, ago(&p.Since, now), ago(p.Heard, now), p.Failed, p.ID,
			})
		}
		header := table.Row{"gateway", "state", "lacks", "ahead", "since", "heard", "failed", "id"}
		if err := printTable(w, header, rows); err != nil || len(st.Alarms) == 0 {
			return err
		}
		rows = rows[:0]
		for _, a := range st.Alarms {
			solved := "-"
			if a.Solved != nil {
				solved = ago(a.Solved, now)
			}
			rows = append(rows, table.Row{a.Kind, dash(a.Gateway), ago(&a.Since, now), solved, a.Text})
		}
		fmt.Fprintln(w)
		return printTable(w, table.Row{"alarm", "gateway", "since", "solved", "what"}, rows)
	})
}

// syncState is how far a gateway is, in a word or two.
func syncState(p api.SyncPeer) string {
	switch {
	case p.Linked && p.InStep:
		return "in step"
	case p.Linked && p.Differs:
		return "differs"
	case p.Linked:
		return "behind"
	}
	return "not linked"
}

func lacksText(n int) string {
	if n >= 10_000 {
		return "10000+"
	}
	return strconv.Itoa(n)
}

func resyncCommand() *cli.Command {
	return &cli.Command{
		Name: "resync", Usage: "compare all data with that of another gateway, and exchange what differs", ArgsUsage: "GATEWAY",
		Description: "Gateways do this by themselves when they find a difference. What one of them lacks comes back; nothing is\n" +
			"removed.",
		Flags: []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			gateway, err := oneArg(c, "the gateway's name or id")
			if err != nil {
				return err
			}
			return ask(c, func(s api.Service) error {
				r, err := s.Resync(c.Context, gateway)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, r)
				}
				_, err = fmt.Fprintf(c.App.Writer, "differed  %d of 256 parts\nreceived  %d\nsent      %d\n", r.Buckets, r.Received, r.Sent)
				return err
			})
		},
	}
}
