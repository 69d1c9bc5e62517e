package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func monitorCommand() *cli.Command {
	return &cli.Command{
		Name: "monitor", Usage: "show what happens, as it happens, until Ctrl-C",
		Description: "It is what this gateway sees: gateways that come, go and change, devices that are steered, connected and\n" +
			"taken over, drains, conflicts and alarms. Ask another gateway for what happens there.",
		Flags: []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return ask(c, func(s api.Service) error {
				return s.Monitor(c.Context, func(e api.Event) error {
					if c.Bool("json") {
						return json.NewEncoder(c.App.Writer).Encode(e)
					}
					_, err := fmt.Fprintln(c.App.Writer, eventText(e))
					return err
				})
			})
		},
	}
}

// eventText is an event on one line: when, what, which gateway and device, more.
func eventText(e api.Event) string {
	parts := []string{e.Time.Local().Format(time.TimeOnly), fmt.Sprintf("%-11s", e.Kind)}
	name := func(what, name, id string) {
		if name == "" && id != "" {
			name = id
		}
		if name != "" {
			parts = append(parts, what+" "+name)
		}
	}
	name("gateway", e.Gateway, e.GatewayID)
	name("device", e.Device, e.DeviceID)
	switch {
	case e.Kind == api.EventMissed:
		parts = append(parts, fmt.Sprintf("%d events:", e.Count))
	case e.Kind == api.EventDrained:
		parts = append(parts, fmt.Sprint(e.Count))
	case e.Count > 0:
		parts = append(parts, fmt.Sprintf("%d devices", e.Count))
	}
	if e.Text != "" {
		parts = append(parts, e.Text)
	}
	return strings.Join(parts, "  ")
}
