package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

var verboseFlag = &cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "show all that is known of each"}

func gatewayCommand() *cli.Command {
	return &cli.Command{
		Name: "gateway", Usage: "see and change the gateways of the cluster",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list gateways", Flags: listFlags(verboseFlag), Action: gatewayList},
			{
				Name: "set", Usage: "change what a gateway is called and offers, from any gateway", ArgsUsage: "NAME",
				Description: "It holds at once, and over restarts of that gateway, until it is started with a flag that differs from\n" +
					"the one of its last start.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "public", Usage: "`HOST:PORT` at which devices reach it"},
					&cli.StringFlag{Name: "name", Usage: "`NAME` that it is to have"},
					&cli.IntFlag{Name: "capacity", Usage: "`N` devices that it may serve"},
					jsonFlag,
				},
				Action: gatewaySet,
			},
			{
				Name: "promote", Usage: "make a standby gateway an active one", ArgsUsage: "NAME",
				Description: "Only if it is connected and its own data path works, unless --force says otherwise.",
				Flags:       []cli.Flag{forceRoleFlag, jsonFlag}, Action: gatewayRole(api.Active),
			},
			{
				Name: "demote", Usage: "make an active gateway a standby", ArgsUsage: "NAME",
				Description: "Its devices move to the active gateways, without a loss. It takes devices again when no active gateway\n" +
					"has room.",
				Flags: []cli.Flag{forceRoleFlag, jsonFlag}, Action: gatewayRole(api.Standby),
			},
			gatewayAddCommand(), gatewayResetCommand(), evictCommand(), evictedCommand(), admitCommand(),
		},
	}
}

var forceRoleFlag = &cli.BoolFlag{Name: "force", Usage: "whatever speaks against it"}

func gatewayList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	get := func(ctx context.Context, s api.Service) ([]api.Gateway, error) { return s.ListGateways(ctx) }
	if c.Bool("verbose") {
		return list(c, get, gatewayDetails)
	}
	return list(c, get, gatewayTable)
}

func gatewayTable(w io.Writer, gateways []api.Gateway) error {
	rows := make([]table.Row, 0, len(gateways))
	for _, g := range gateways {
		rows = append(rows, table.Row{
			g.Name, state(g), fmt.Sprintf("%d/%d", g.Sessions, g.Capacity), g.Role, dash(g.Public), dash(g.Mesh),
			g.OS + "/" + g.Arch, dash(g.Version), g.ID,
		})
	}
	return printTable(w, table.Row{"name", "state", "sessions", "role", "public", "mesh", "system", "version", "id"}, rows)
}

// gatewayDetails shows all of each gateway, one below the other: it is too much for a line.
func gatewayDetails(w io.Writer, gateways []api.Gateway) error {
	now := time.Now()
	for i, g := range gateways {
		if i > 0 {
			fmt.Fprintln(w)
		}
		admitted := "-"
		if g.Admitted != nil {
			admitted = fmt.Sprintf("by %s, %s", dash(g.AdmittedBy), ago(g.Admitted, now))
		}
		_, err := fmt.Fprintf(w, "name         %s\nid           %s\nstate        %s\nrole         %s\nsessions     %d of %d\npublic       %s\n"+
			"mesh         %s\nhost         %s\nsystem       %s, %s\nversion      %s (protocol %s, data format %d)\n"+
			"admitted     %s\nstarted      %s\nround trip   %s\nclock        %s\n",
			g.Name, g.ID, stateSince(g, now), g.Role, g.Sessions, g.Capacity, dash(g.Public),
			dash(strings.Join(g.Addresses, ", ")), dash(g.Hostname), g.OS, g.Arch, dash(g.Version), protocol(g), g.Format,
			admitted, ago(started(g), now), milliseconds(g.RoundTrip, ""),
			milliseconds(g.ClockOffset, "ahead of this gateway's"))
		if err != nil {
			return err
		}
	}
	return nil
}

func started(g api.Gateway) *time.Time {
	if g.Started.IsZero() {
		return nil
	}
	return &g.Started
}

func protocol(g api.Gateway) string {
	if g.Protocol == 0 {
		return "-"
	}
	return fmt.Sprint(g.Protocol)
}

// milliseconds writes a time that may not be known. A negative one is behind what it is said to be ahead of.
func milliseconds(ms *float64, ahead string) string {
	if ms == nil {
		return "-"
	}
	v := *ms
	if v < 0 {
		v, ahead = -v, strings.Replace(ahead, "ahead of", "behind", 1)
	}
	format := "%.3g ms %s"
	if v >= 100 { // not in powers of ten
		format = "%.0f ms %s"
	}
	return strings.TrimSpace(fmt.Sprintf(format, v, ahead))
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

func stateSince(g api.Gateway, now time.Time) string {
	text := state(g)
	if g.State == api.Alive && !g.Serving {
		text += ", takes no devices"
	}
	if g.Since == nil {
		return text
	}
	return text + ", since " + strings.TrimSuffix(ago(g.Since, now), " ago")
}

func gatewaySet(c *cli.Context) error {
	name, err := oneArg(c, "the gateway's name")
	if err != nil {
		return err
	}
	var ch api.GatewayChange
	if c.IsSet("name") {
		s := c.String("name")
		ch.Name = &s
	}
	if c.IsSet("public") {
		s := c.String("public")
		ch.Public = &s
	}
	if c.IsSet("capacity") {
		i := c.Int("capacity")
		ch.Capacity = &i
	}
	if ch == (api.GatewayChange{}) {
		return usagef("gateway set takes --public, --name or --capacity")
	}
	return ask(c, func(s api.Service) error {
		g, err := s.ChangeGateway(c.Context, name, ch)
		if err != nil || !c.Bool("json") {
			return err
		}
		return printJSON(c.App.Writer, g)
	})
}

func gatewayRole(role string) cli.ActionFunc {
	return func(c *cli.Context) error {
		name, err := oneArg(c, "the gateway's name")
		if err != nil {
			return err
		}
		return ask(c, func(s api.Service) error {
			r, err := s.SetRole(c.Context, name, api.RoleChange{Role: role, Force: c.Bool("force")})
			if err != nil {
				return err
			}
			if r.Warning != "" {
				fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", r.Warning)
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, r)
			}
			return nil
		})
	}
}
