package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/xrash/smetrics"

	"gatemesh/node"
)

// maxTOML bounds a configuration file, in bytes.
const maxTOML = 128 << 20

// readTOML returns the content of a file; "-" is stdin.
func readTOML(path string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxTOML+1))
	if err == nil && len(b) > maxTOML {
		err = fmt.Errorf("larger than %d bytes", maxTOML)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %s: %w", path, err)
	}
	return b, nil
}

// decodeTOML decodes b into v and refuses keys that v does not know. where stands before
// the line in an error; keys are offered for one that was mistyped.
func decodeTOML(b []byte, where string, v any, keys []string) error {
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &unknown) && len(unknown.Errors) > 0:
		e := &unknown.Errors[0]
		line, _ := e.Position()
		key := e.Key()
		return unknownKey(where, line, key[len(key)-1], keys)
	case errors.As(err, &bad):
		line, column := bad.Position()
		return fmt.Errorf("%s:%d:%d: %w", where, line, column, bad)
	case err != nil:
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

func unknownKey(where string, line int, key string, keys []string) error {
	hint := "the keys are " + strings.Join(keys, ", ")
	if near := nearest(key, keys); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return &node.HintError{Err: fmt.Errorf("%s:%d: there is no key %q", where, line, key), Hint: hint}
}

// lineOf returns the number of the line that sets a key or begins a table.
func lineOf(b []byte, key string) int {
	for i, l := range bytes.Split(b, []byte("\n")) {
		name, _, _ := bytes.Cut(l, []byte("="))
		if string(bytes.Trim(name, " \t\r\"'[]")) == key {
			return i + 1
		}
	}
	return 0
}

// nearest returns the word that a mistyped one was meant to be; "" if none is near.
func nearest(word string, all []string) string {
	best, found := max(2, len(word)/3)+1, ""
	for _, w := range all {
		if d := smetrics.WagnerFischer(word, w, 1, 1, 1); d < best {
			best, found = d, w
		}
	}
	return found
}
