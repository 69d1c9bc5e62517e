package cli

import (
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
)

// configEnv holds the settings of a gateway: base64 of what --config reads.
const configEnv = "GATEMESH_CONFIG"

var configFlag = &cli.StringFlag{
	Name:  "config",
	Usage: "`FILE` with these settings in TOML, by the names of the flags; " + configEnv + " may hold the base64 of one",
}

// choices are what a gateway was told, the first of
//
//	flag, environment, --config, GATEMESH_CONFIG, remembered
//
// An empty value counts as none, as environment files have it.
type choices struct {
	c    *cli.Context
	file map[string]string // of --config over GATEMESH_CONFIG
	old  remembered        // nil until the data directory is known
}

// readChoices reads the files that there are.
func readChoices(c *cli.Context) (choices, error) {
	s := choices{c: c, file: map[string]string{}}
	if text := os.Getenv(configEnv); text != "" {
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return s, &node.HintError{
				Err: fmt.Errorf("%s is not base64", configEnv), Hint: "it holds what `gatemesh pool config --base64` prints",
			}
		}
		if err := s.read(b, configEnv); err != nil {
			return s, err
		}
	}
	path := c.String(configFlag.Name)
	if path == "" {
		return s, nil
	}
	b, err := readTOML(path, c.App.Reader)
	if err != nil {
		return s, err
	}
	return s, s.read(b, path)
}

// read takes the settings of a TOML file.
func (s choices) read(b []byte, where string) error {
	all := map[string]any{}
	keys := settingKeys(s.c.Command)
	if err := decodeTOML(b, where, &all, keys); err != nil {
		return err
	}
	found := slices.SortedFunc(maps.Keys(all), func(a, c string) int { return lineOf(b, a) - lineOf(b, c) })
	for _, key := range found {
		if !slices.Contains(keys, key) {
			return unknownKey(where, lineOf(b, key), key, keys)
		}
		switch v := all[key].(type) {
		case string, int64, bool:
			s.file[key] = fmt.Sprint(v)
		default:
			return fmt.Errorf("%s:%d: %s is neither text nor a number", where, lineOf(b, key), key)
		}
	}
	return nil
}

// settingKeys returns what a file may hold: the names of a command's flags.
func settingKeys(cmd *cli.Command) (keys []string) {
	for _, f := range cmd.Flags {
		if name := f.Names()[0]; name != configFlag.Name && name != "help" {
			keys = append(keys, name)
		}
	}
	return keys
}

// once returns a setting that is for this start only; "" if there is none.
func (s choices) once(flag string) string {
	if s.c.IsSet(flag) {
		if v := fmt.Sprint(s.c.Value(flag)); v != "" {
			return v
		}
	}
	return s.file[flag]
}

// value returns a setting, or def. What the command line or the environment gives is
// remembered from now on; a file is read again at the next start.
func (s choices) value(flag, def string) string {
	if v := s.c.String(flag); s.c.IsSet(flag) && v != "" {
		s.old[flag] = v
		return v
	}
	if v := s.file[flag]; v != "" {
		return v
	}
	if v, ok := s.old[flag]; ok {
		return v
	}
	return def
}
