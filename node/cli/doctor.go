package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "look for what is wrong, and say what to do",
		Description: "Where a gateway runs it looks at that one: its ports, whether others reach it, clocks, the LAN, firewall and\n" +
			"disk. Where none runs it looks at what one would meet here. It ends with 1 if something fails.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Usage: "`DIR` of a gateway that does not run", EnvVars: env("DATA")},
			jsonFlag,
		},
		Action: doctor,
	}
}

func doctor(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	var checks []api.Check
	err := ask(c, func(s api.Service) (err error) {
		checks, err = s.Doctor(c.Context)
		return err
	})
	if errors.Is(err, api.ErrNotRunning) && c.String(socketFlag.Name) == "" {
		checks, err = examine(c)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, checks)
	} else {
		_, err = fmt.Fprint(c.App.Writer, checksText(checks))
	}
	failed := 0
	for _, k := range checks {
		if k.Result == api.Fail {
			failed++
		}
	}
	if err != nil || failed == 0 {
		return err
	}
	return &node.HintError{
		Err:  fmt.Errorf("%d of %d checks fail", failed, len(checks)),
		Hint: "do what the hints of these say, and run it again",
	}
}

// examine looks at a gateway that does not run, as it was started last.
func examine(c *cli.Context) ([]api.Check, error) {
	data, _, err := dataDir(c.String("data"))
	if err != nil {
		return nil, err
	}
	old, err := loadRemembered(data)
	if err != nil {
		return nil, err
	}
	value := func(name, def string) string {
		if v := os.Getenv("GATEMESH_" + strings.ToUpper(name)); v != "" {
			return v
		}
		if v, ok := old[name]; ok {
			return v
		}
		return def
	}
	checks, err := node.Examine(c.Context, node.Config{
		Data: data, Listen: value("listen", node.DefaultListen), Mesh: value("mesh", node.DefaultMesh),
		Dataplane: value("dataplane", node.DefaultDataplane), Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		checks = append([]api.Check{{
			Name: "gateway", Result: api.Warn, Text: "no gateway is running here",
			Hint: "start it with `" + self() + " up`",
		}}, checks...)
	}
	return checks, err
}

// checksText is one line for each check, and one for its hint.
func checksText(checks []api.Check) string {
	width := 0
	for _, k := range checks {
		width = max(width, len(k.Name))
	}
	var b strings.Builder
	for _, k := range checks {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", k.Result, width, k.Name, k.Text)
		if k.Hint != "" && k.Result != api.OK {
			fmt.Fprintf(&b, "%-4s  %-*s  hint: %s\n", "", width, "", k.Hint)
		}
	}
	return b.String()
}
