package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/mdp/qrterminal/v3"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func deviceCommand() *cli.Command {
	const ref = "NAME"
	return &cli.Command{
		Name:  "device",
		Usage: "enrol devices and see where they are",
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "enrol a device and print its configuration", ArgsUsage: ref,
				Flags: append(keyFlags(), confFlags()...), Action: deviceAdd,
			},
			{Name: "list", Usage: "list devices", Flags: listFlags(), Action: deviceList},
			{Name: "show", Usage: "show one device", ArgsUsage: ref, Flags: []cli.Flag{jsonFlag}, Action: deviceShow},
			{Name: "remove", Usage: "forget a device", ArgsUsage: ref, Action: deviceRemove},
			{Name: "disable", Usage: "refuse a device", ArgsUsage: ref, Action: deviceEnable(false)},
			{Name: "enable", Usage: "serve a device again", ArgsUsage: ref, Action: deviceEnable(true)},
			{Name: "rename", Usage: "call a device otherwise", ArgsUsage: "OLD NEW", Action: deviceRename},
			{
				Name: "rekey", Usage: "give a device a new key and print its configuration", ArgsUsage: ref,
				Flags: append(keyFlags(), confFlags()...), Action: deviceRekey,
			},
		},
	}
}

func keyFlags() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{Name: "public-key", Usage: "`KEY` of a device that keeps its private key to itself"}}
}

func confFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "allowed-ips", Usage: "`PREFIXES` that the device sends into the tunnel", Value: "0.0.0.0/0, ::/0"},
		&cli.BoolFlag{Name: "qr", Usage: "draw the configuration as a QR code"},
	}
}

func deviceAdd(c *cli.Context) error {
	name, err := oneArg(c, "the device's name")
	if err != nil {
		return err
	}
	return enrol(c, func(s api.Service, public string) (api.Enrolment, error) {
		return s.AddDevice(c.Context, api.NewDevice{Name: name, PublicKey: public})
	})
}

func deviceRekey(c *cli.Context) error {
	ref, err := oneArg(c, "the device's name")
	if err != nil {
		return err
	}
	return enrol(c, func(s api.Service, public string) (api.Enrolment, error) {
		return s.RekeyDevice(c.Context, ref, api.NewKey{PublicKey: public})
	})
}

// enrol makes a key unless the device keeps its own, has it enrolled by f, and
// prints the device's configuration. The private key leaves this process on
// stdout only.
func enrol(c *cli.Context, f func(s api.Service, public string) (api.Enrolment, error)) error {
	prefixes, err := parsePrefixes(c.String("allowed-ips"))
	if err != nil {
		return err
	}
	public, private := c.String("public-key"), ""
	if c.Bool("qr") && public != "" {
		return usagef("--qr draws a private key; with --public-key there is none to draw")
	}
	if public == "" {
		if private, public, err = newDeviceKey(); err != nil {
			return err
		}
	}
	return ask(c, func(s api.Service) error {
		e, err := f(s, public)
		if err != nil {
			return err
		}
		text := wgQuick(e, private, prefixes)
		if c.Bool("qr") {
			qrterminal.GenerateHalfBlock(text, qrterminal.L, c.App.Writer)
			return nil
		}
		_, err = fmt.Fprint(c.App.Writer, text)
		return err
	})
}

func deviceList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	get := func(ctx context.Context, s api.Service) ([]api.Device, error) { return s.ListDevices(ctx) }
	return list(c, get, func(w io.Writer, devices []api.Device) error {
		now := time.Now()
		rows := make([]table.Row, 0, len(devices))
		for _, d := range devices {
			state := dash(d.Gateway)
			if !d.Enabled {
				state = "disabled"
			}
			rows = append(rows, table.Row{
				d.Name, dash(firstOf(d.Addresses)), state, dash(d.Endpoint), ago(d.LastHandshake, now),
				bytesText(d.RxBytes), bytesText(d.TxBytes), d.ID,
			})
		}
		return printTable(w, table.Row{"name", "address", "gateway", "endpoint", "handshake", "received", "sent", "id"}, rows)
	})
}

func firstOf(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func deviceShow(c *cli.Context) error {
	ref, err := oneArg(c, "the device's name")
	if err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		d, err := s.ShowDevice(c.Context, ref)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, d)
		}
		_, err = fmt.Fprintf(c.App.Writer,
			"name       %s\nid         %s\naddresses  %s\nenabled    %v\ngateway    %s\nendpoint   %s\nhandshake  %s\nreceived   %s\nsent       %s\n",
			d.Name, d.ID, strings.Join(d.Addresses, ", "), d.Enabled, dash(d.Gateway), dash(d.Endpoint),
			ago(d.LastHandshake, time.Now()), bytesText(d.RxBytes), bytesText(d.TxBytes))
		return err
	})
}

func deviceRemove(c *cli.Context) error {
	ref, err := oneArg(c, "the device's name")
	if err != nil {
		return err
	}
	return ask(c, func(s api.Service) error { return s.RemoveDevice(c.Context, ref) })
}

func deviceEnable(on bool) cli.ActionFunc {
	return func(c *cli.Context) error {
		ref, err := oneArg(c, "the device's name")
		if err != nil {
			return err
		}
		return ask(c, func(s api.Service) error {
			_, err := s.ChangeDevice(c.Context, ref, api.DeviceChange{Enabled: &on})
			return err
		})
	}
}

func deviceRename(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef("device rename takes the old name and the new one")
	}
	name := c.Args().Get(1)
	return ask(c, func(s api.Service) error {
		_, err := s.ChangeDevice(c.Context, c.Args().First(), api.DeviceChange{Name: &name})
		return err
	})
}
