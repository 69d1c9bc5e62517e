package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

func auditCommand() *cli.Command {
	since := &cli.StringFlag{Name: "since", Usage: "only from `TIME` on: 2006-01-02, 2006-01-02T15:04:05Z, or 24h for the last day"}
	level := &cli.StringFlag{Name: "level", Usage: "all or security", Value: "all"}
	return &cli.Command{
		Name: "audit", Usage: "who changed what, from where",
		Description: "Every gateway keeps the records of all. The settings audit-level (all, security, off) and audit-days say\n" +
			"what is recorded and how long it is kept; see `gatemesh config`.",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list records, oldest first",
				Flags: []cli.Flag{since, level, &cli.IntFlag{Name: "last", Usage: "only the last `N`; 0: all", Value: 100}, jsonFlag}, Action: auditList,
			},
			{Name: "verify", Usage: "check that no record was altered or removed", Flags: []cli.Flag{jsonFlag}, Action: auditVerify},
			{
				Name: "export", Usage: "print all records as JSON, one a line",
				Flags: []cli.Flag{since, level, &cli.StringFlag{Name: "out", Usage: "write them to `FILE` instead"}}, Action: auditExport,
			},
		},
	}
}

// auditQuery reads --since and --level.
func auditQuery(c *cli.Context, last int) (q api.AuditQuery, err error) {
	q = api.AuditQuery{Level: c.String("level"), Last: last}
	if q.Level != "all" && q.Level != "security" {
		return q, usagef("there is no level %q; use all or security", q.Level)
	}
	text := c.String("since")
	if text == "" {
		return q, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		q.Since = time.Now().Add(-d)
		return q, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if q.Since, err = time.ParseInLocation(layout, text, time.Local); err == nil {
			return q, nil
		}
	}
	return q, usagef("--since %q is neither a time nor a duration", text)
}

func listAudit(c *cli.Context, last int, f func([]api.AuditRecord) error) error {
	if err := noArgs(c); err != nil {
		return err
	}
	q, err := auditQuery(c, last)
	if err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		records, err := s.ListAudit(c.Context, q)
		if err != nil {
			return err
		}
		return f(records)
	})
}

func auditList(c *cli.Context) error {
	return listAudit(c, c.Int("last"), func(records []api.AuditRecord) error {
		if c.Bool("json") {
			return printJSON(c.App.Writer, records)
		}
		rows := make([]table.Row, 0, len(records))
		for _, r := range records {
			rows = append(rows, table.Row{
				r.Time.Local().Format(time.DateTime), r.Gateway, r.Actor, dash(r.Source), r.Action, r.Object, changesText(r.Changes),
			})
		}
		return printTable(c.App.Writer, table.Row{"time", "gateway", "actor", "source", "action", "object", "changes"}, rows)
	})
}

func changesText(changes []api.AuditChange) string {
	text := make([]string, len(changes))
	for i, ch := range changes {
		switch {
		case ch.Before == "":
			text[i] = ch.Field + " " + ch.After
		default:
			text[i] = fmt.Sprintf("%s %s → %s", ch.Field, ch.Before, dash(ch.After))
		}
	}
	return strings.Join(text, ", ")
}

func auditExport(c *cli.Context) error {
	return listAudit(c, 0, func(records []api.AuditRecord) error {
		write := func(w io.Writer) error {
			e := json.NewEncoder(w)
			for _, r := range records {
				if err := e.Encode(r); err != nil {
					return err
				}
			}
			return nil
		}
		if path := c.String("out"); path != "" {
			return node.ReplaceFile(path, write)
		}
		return write(c.App.Writer)
	})
}

func auditVerify(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		r, err := s.VerifyAudit(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			err = printJSON(c.App.Writer, r)
		} else {
			for _, f := range r.Faults {
				_, _ = fmt.Fprintf(c.App.Writer, "record %d of %s (%s, run %s) %s\n", f.Seq, f.Gateway, f.Origin, f.Run, f.Reason)
			}
			_, err = fmt.Fprintf(c.App.Writer, "%d records, %d faults\n", r.Records, len(r.Faults))
		}
		if err != nil || len(r.Faults) == 0 {
			return err
		}
		f := r.Faults[0]
		return &node.HintError{
			Err:  fmt.Errorf("record %d of gateway %s %s", f.Seq, f.Gateway, f.Reason),
			Hint: "run it at another gateway: the one whose records are sound has what was written",
		}
	})
}
