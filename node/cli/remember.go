package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
		return nil, &node.HintError{
			Err: fmt.Errorf("remembered flags in %s: %w", path, err), Hint: "remove that file and give the flags again",
		}
	}
	return r, nil
}

func (r remembered) save(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path, b := filepath.Join(dir, rememberedFile), append(b, '\n')
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	return node.WriteFile(path, b)
}
