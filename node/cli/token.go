package cli

import (
	"errors"
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

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "let gateways join from anywhere",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "print a command with which a gateway joins",
				Description: "Whoever has the token may join once, from anywhere, without the cluster key. Its uses are counted at this\n" +
					"gateway, which must be up when it is used.",
				Flags: []cli.Flag{
					&cli.DurationFlag{Name: "ttl", Usage: "how `LONG` it is good for, 1m to 720h", Value: time.Hour},
					&cli.IntFlag{Name: "uses", Usage: "for `N` gateways", Value: 1},
					&cli.StringFlag{Name: "host", Usage: "for gateways in this `PREFIX` only", DefaultText: "from anywhere"},
					&cli.BoolFlag{Name: "standby", Usage: "for gateways that take devices only when the others cannot"},
					&cli.StringFlag{Name: "label", Usage: "`TEXT` to know it by"},
					&cli.StringSliceFlag{Name: "address", Usage: "further `HOST[:PORT]` at which newcomers reach this gateway"},
					&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the token alone"},
					jsonFlag,
				},
				Action: tokenCreate,
			},
			{Name: "list", Usage: "list tokens", Flags: []cli.Flag{jsonFlag}, Action: tokenList},
			{
				Name: "revoke", Usage: "end a token", ArgsUsage: "ID", Flags: []cli.Flag{jsonFlag}, Action: tokenRevoke,
				Description: "ID is the beginning of a token's id, at least 6 digits. Gateways that have joined by it stay.",
			},
		},
	}
}

func tokenCreate(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	ttl := c.Duration("ttl")
	if ttl <= 0 || ttl%time.Second != 0 || ttl > 1<<20*time.Hour {
		return usagef("--ttl takes a time such as 90m or 24h, not %v", ttl)
	}
	if c.Int("uses") < 1 {
		return usagef("--uses is %d, at least 1 is needed", c.Int("uses"))
	}
	return ask(c, func(s api.Service) error {
		t, err := s.CreateToken(c.Context, api.NewToken{
			TTL: int(ttl / time.Second), Uses: c.Int("uses"), Host: c.String("host"), Standby: c.Bool("standby"),
			Label: c.String("label"), Address: c.StringSlice("address"),
		})
		if err != nil {
			return err
		}
		if t.State == api.TokenWaiting {
			fmt.Fprintf(c.App.ErrWriter, "warning: this gateway has not heard from another one since it started; it takes tokens once it has\n")
		}
		join := "gatemesh up --join " + t.Secret
		switch {
		case c.Bool("json"):
			return printJSON(c.App.Writer, struct {
				api.MintedToken
				Command string `json:"command"`
			}{t, join})
		case c.Bool("quiet"):
			_, err = fmt.Fprintln(c.App.Writer, t.Secret)
			return err
		}
		fmt.Fprintf(c.App.ErrWriter, "Token %s for %s, until %s. On the new machine:\n\n", t.ID[:8], forText(t.Token),
			t.Expires.Local().Format("2006-01-02 15:04:05 MST"))
		if _, err = fmt.Fprintln(c.App.Writer, join); err != nil {
			return err
		}
		fmt.Fprintf(c.App.ErrWriter, "\nIt is a secret until it is used; --join file:PATH or GATEMESH_JOIN keep it out of the process list.\n")
		return nil
	})
}

// forText says what a token is good for.
func forText(t api.Token) string {
	text := "1 gateway"
	if t.Uses > 1 {
		text = fmt.Sprintf("%d gateways", t.Uses)
	}
	if t.Standby {
		text += " on standby"
	}
	if t.Host != "" {
		text += " in " + t.Host
	}
	return text
}

func tokenList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		all, err := s.ListTokens(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, all)
		}
		rows := make([]table.Row, 0, len(all))
		for _, t := range all {
			rows = append(rows, table.Row{
				t.ID[:8], t.State, fmt.Sprintf("%d/%d", t.Spent, t.Uses), t.Expires.UTC().Format(time.RFC3339), forText(t),
				t.Gateway,
				dash(strings.Join(t.UsedBy, " ")), dash(t.Label),
			})
		}
		return printTable(c.App.Writer, table.Row{"id", "state", "used", "expires", "for", "counted at", "used by", "label"},
			rows)
	})
}

func tokenRevoke(c *cli.Context) error {
	id, err := oneArg(c, "the token's id")
	if err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		t, err := s.RevokeToken(c.Context, id)
		if err != nil || !c.Bool("json") {
			return err
		}
		return printJSON(c.App.Writer, t)
	})
}

// maxTokenFile bounds what is read of a token's file, in bytes.
const maxTokenFile = 16 << 10

// readJoin reads what --join was given: a member's host, a token, or the file that holds a token or the command that
// has one.
func readJoin(s string, cfg *node.Config) error {
	text, where := s, "that"
	if path, ok := strings.CutPrefix(s, "file:"); ok {
		f, err := os.Open(path)
		if err != nil {
			return &node.HintError{
				Err:  fmt.Errorf("read join token: %w", err),
				Hint: "file: takes the path of a file that holds the token",
			}
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
		if err != nil {
			return fmt.Errorf("read join token: %w", err)
		}
		text, where = string(b), "the content of "+path
		for _, word := range strings.Fields(text) {
			if node.IsJoinToken(word) {
				text = word
			}
		}
	} else if !node.IsJoinToken(s) {
		cfg.Join = s
		return nil
	}
	t, err := node.ParseJoinToken(text)
	if errors.Is(err, node.ErrToken) {
		return &node.HintError{
			Err:  fmt.Errorf("%s is not a join token, or not all of it", where),
			Hint: "copy all of what `gatemesh token create` prints at a member: gmt1- and the letters that follow",
		}
	}
	cfg.Token = &t
	return err
}
