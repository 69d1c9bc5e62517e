package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "the cluster's configuration as a file",
		Subcommands: []*cli.Command{
			{
				Name: "export", Usage: "print it as TOML, to be kept in git",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "out", Usage: "write it to `FILE` instead"},
					&cli.BoolFlag{Name: "secrets", Usage: "with the preshared keys of devices"},
				},
				Action: configExport,
			},
			{
				Name: "diff", Usage: "show what apply would do", ArgsUsage: "FILE|-",
				Description: "The exit status is 0 if nothing differs, 1 if something does, 2 for trouble.",
				Flags:       []cli.Flag{jsonFlag}, Action: configDiff,
			},
			{
				Name: "apply", Usage: "make the cluster what the file says", ArgsUsage: "FILE|-",
				Description: "Devices are known by their keys, else by their names. What the file says nothing of (settings,\n" +
					"addresses, preshared keys) stays; a device that is not in the file is removed, but with --remove only.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "dry-run", Usage: "only show what would be done"},
					&cli.BoolFlag{Name: "remove", Usage: "remove devices that are not in the file"},
					jsonFlag,
				},
				Action: configApply,
			},
		},
	}
}

// configFormat is the version of the file.
const configFormat = 1

// configFile is the cluster's configuration in TOML.
type configFile struct {
	Format   int            `toml:"format"`
	Settings map[string]any `toml:"settings"`
	Devices  []deviceTable  `toml:"device"`
}

type deviceTable struct {
	Name         string   `toml:"name"`
	Key          string   `toml:"key"`
	Addresses    []string `toml:"addresses,omitempty"`
	Enabled      *bool    `toml:"enabled"` // nil: true
	PresharedKey *string  `toml:"preshared-key,omitempty"`
}

var configKeys = []string{"format", "settings", "device", "name", "key", "addresses", "enabled", "preshared-key"}

func configExport(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		cfg, err := s.Config(c.Context, c.Bool("secrets"))
		if err != nil {
			return err
		}
		b, err := toml.Marshal(toFile(cfg))
		if err != nil {
			return fmt.Errorf("encode configuration: %w", err)
		}
		if path := c.String("out"); path != "" {
			return node.ReplaceFile(path, func(w io.Writer) error {
				_, err := w.Write(b)
				return err
			})
		}
		_, err = c.App.Writer.Write(b)
		return err
	})
}

func toFile(cfg api.Config) configFile {
	f := configFile{Format: configFormat, Settings: map[string]any{}}
	for name, v := range cfg.Settings {
		if v == "" { // never set
			continue
		}
		f.Settings[name] = v
		if n, err := strconv.Atoi(v); err == nil {
			f.Settings[name] = n
		}
	}
	for _, d := range cfg.Devices {
		t := deviceTable{Name: d.Name, Key: d.Key, Addresses: d.Addresses, Enabled: &d.Enabled}
		if d.PresharedKey != nil && *d.PresharedKey != "" {
			t.PresharedKey = d.PresharedKey
		}
		f.Devices = append(f.Devices, t)
	}
	return f
}

// fromFile reads a file; settings are those that a cluster knows.
func fromFile(b []byte, where string, settings []string) (cfg api.Config, err error) {
	f := configFile{}
	if err := decodeTOML(b, where, &f, configKeys); err != nil {
		return cfg, err
	}
	if f.Format != configFormat {
		return cfg, fmt.Errorf("%s: format is %d, this version knows format = %d", where, f.Format, configFormat)
	}
	cfg = api.Config{Settings: map[string]string{}, Devices: make([]api.ConfigDevice, 0, len(f.Devices))}
	for _, name := range slices.Sorted(maps.Keys(f.Settings)) {
		if !slices.Contains(settings, name) {
			return cfg, unknownKey(where, lineOf(b, name), name, settings)
		}
		switch v := f.Settings[name].(type) {
		case string, int64, bool:
			cfg.Settings[name] = fmt.Sprint(v)
		default:
			return cfg, fmt.Errorf("%s:%d: %s is neither text nor a number", where, lineOf(b, name), name)
		}
	}
	for _, t := range f.Devices {
		d := api.ConfigDevice{Name: t.Name, Key: t.Key, Addresses: t.Addresses, Enabled: t.Enabled == nil || *t.Enabled, PresharedKey: t.PresharedKey}
		cfg.Devices = append(cfg.Devices, d)
	}
	return cfg, nil
}

// applyFile has the gateway apply the file that is the command's argument.
func applyFile(c *cli.Context, dryRun bool) (out api.ConfigApplied, err error) {
	path, err := oneArg(c, "a file")
	if err != nil {
		return out, err
	}
	b, err := readTOML(path, c.App.Reader)
	if err != nil {
		return out, err
	}
	err = ask(c, func(s api.Service) error {
		is, err := s.Config(c.Context, false)
		if err != nil {
			return err
		}
		cfg, err := fromFile(b, path, slices.Sorted(maps.Keys(is.Settings)))
		if err != nil {
			return err
		}
		out, err = s.ApplyConfig(c.Context, api.ConfigApply{Config: cfg, DryRun: dryRun, Remove: c.Bool("remove")})
		return err
	})
	return out, err
}

func configDiff(c *cli.Context) error {
	out, err := applyFile(c, true)
	if err == nil {
		err = printChanges(c, out.Changes)
	}
	switch {
	case err != nil:
		return &statusError{err, exitUsage}
	case len(out.Changes) > 0:
		return &statusError{errDiffers, exitError}
	}
	return nil
}

var errDiffers = errors.New("the cluster differs from the file")

func configApply(c *cli.Context) error {
	out, err := applyFile(c, c.Bool("dry-run"))
	if err != nil {
		return err
	}
	return printChanges(c, out.Changes)
}

func printChanges(c *cli.Context, changes []api.ConfigChange) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, changes)
	}
	var b strings.Builder
	for _, ch := range changes {
		fmt.Fprintf(&b, "%s %s", map[string]string{api.Added: "+", api.Removed: "-", api.Changed: "~"}[ch.What], ch.Object)
		if len(ch.Fields) > 0 {
			fmt.Fprintf(&b, "  %s", strings.Join(ch.Fields, ", "))
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(c.App.Writer, b.String())
	return err
}
