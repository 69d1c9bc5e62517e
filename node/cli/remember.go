package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
)

// rememberedFile holds the flags with which the gateway was last ready, so
// that a restart needs none.
const rememberedFile = "flags.json"

// remembered maps flags to the values that were given for them.
type remembered map[string]string

func loadRemembered(dir string) (remembered, error) {
	path := filepath.Join(dir, rememberedFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return remembered{}, nil // the store will say what is wrong with the directory
	}
	if err != nil {
		return nil, &node.HintError{
			Err: fmt.Errorf("data directory: %w", err), Hint: "use --data with a directory that this user may write",
		}
	}
	r := remembered{}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("read remembered flags: %s: %w", path, err)
	}
	return r, nil
}

func (r remembered) save(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, rememberedFile)
	if err := os.WriteFile(path+"~", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+"~", path)
}

// value returns a flag's value: from the command line or the environment, else
// as remembered, else its default. What was given is remembered from now on.
func (r remembered) value(c *cli.Context, flag string) string {
	if c.IsSet(flag) {
		r[flag] = c.String(flag)
	} else if v, ok := r[flag]; ok {
		return v
	}
	return c.String(flag)
}
