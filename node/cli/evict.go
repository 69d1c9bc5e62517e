package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

func evictCommand() *cli.Command {
	return &cli.Command{
		Name: "evict", Usage: "end the membership of another gateway for good", ArgsUsage: "NAME",
		Description: "From the moment a gateway knows of it, it takes nothing from the evicted one, and the others take over its\n" +
			"devices. The gossip key and the cluster key are replaced and its join tokens revoked. What it wrote stays and is\n" +
			"listed, here and by `gatemesh gateway evicted`. Its key is never admitted again.",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "do not ask"}, jsonFlag},
		Action: func(c *cli.Context) error {
			name, err := oneArg(c, "the gateway's name or id")
			if err != nil {
				return err
			}
			if !c.Bool("yes") {
				if err := confirm(c, fmt.Sprintf("Evict %s for good?", name)); err != nil {
					return err
				}
			}
			return ask(c, func(s api.Service) error {
				e, err := s.EvictGateway(c.Context, name)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, e)
				}
				return printEviction(c.App.Writer, e)
			})
		},
	}
}

// confirm asks on stderr and reads the answer from stdin. Where nobody is asked, nothing is done.
func confirm(c *cli.Context, question string) error {
	refused := &node.HintError{Err: fmt.Errorf("nothing was done"), Hint: "answer yes, or give --yes"}
	if info, err := os.Stdin.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return refused
	}
	fmt.Fprintf(c.App.ErrWriter, "%s [yes/no] ", question)
	line, err := bufio.NewReader(io.LimitReader(os.Stdin, 64)).ReadString('\n')
	if err != nil || strings.TrimSpace(strings.ToLower(line)) != "yes" {
		return refused
	}
	return nil
}

func evictedCommand() *cli.Command {
	return &cli.Command{
		Name: "evicted", Usage: "show evicted gateways, and what of theirs is to be looked at",
		Flags: []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return ask(c, func(s api.Service) error {
				all, err := s.ListEvictions(c.Context)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, all)
				}
				for i, e := range all {
					if i > 0 {
						fmt.Fprintln(c.App.Writer)
					}
					if err := printEviction(c.App.Writer, e); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func printEviction(w io.Writer, e api.Eviction) error {
	fmt.Fprintf(w, "evicted  %s (%s) on %s at %s\ntokens   %d revoked\n", dash(e.Name), e.ID, e.At.Format(time.RFC3339),
		e.By, e.Tokens)
	fmt.Fprintf(w, "\nIt may have read:\n")
	for _, x := range e.Exposed {
		fmt.Fprintf(w, "  %s: %s\n", x.What, x.Remedy)
	}
	if len(e.Passwords) > 0 {
		fmt.Fprintf(w, "\nUsers to be given another password by `gatemesh user password NAME`, who cannot log on to join before:\n"+
			"  %s\n", strings.Join(e.Passwords, ", "))
	}
	if len(e.Suspended) > 0 {
		fmt.Fprintf(w, "\nIt, or whom it brought along, admitted these unknown to the others.\n"+
			"They are no members until `gatemesh gateway admit NAME`:\n")
		for _, s := range e.Suspended {
			fmt.Fprintf(w, "  %s (%s)\n", dash(s.Name), s.ID)
		}
	}
	if len(e.Written) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\nIt wrote lately, to be reviewed:\n")
	rows := make([]table.Row, 0, len(e.Written))
	for _, x := range e.Written {
		when := x.At.Format(time.RFC3339)
		if x.Beyond {
			when += ", unknown at its eviction"
		}
		rows = append(rows, table.Row{x.Kind, dash(x.Name), strings.Join(x.Fields, " "), when, x.ID})
	}
	return printTable(w, table.Row{"kind", "name", "fields", "when", "id"}, rows)
}

func admitCommand() *cli.Command {
	return &cli.Command{
		Name: "admit", Usage: "admit a gateway again that only an evicted one had admitted", ArgsUsage: "NAME",
		Flags: []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			name, err := oneArg(c, "the gateway's name or id")
			if err != nil {
				return err
			}
			return ask(c, func(s api.Service) error {
				g, err := s.ReadmitGateway(c.Context, name)
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, g)
				}
				_, err = fmt.Fprintf(c.App.Writer, "admitted %s (%s)\n", dash(g.Name), g.ID)
				return err
			})
		},
	}
}
