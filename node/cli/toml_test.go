package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

func TestNearest(t *testing.T) {
	keys := []string{"name", "listen", "mesh", "capacity", "dataplane"}
	for word, want := range map[string]string{
		"nmae": "name", "lisen": "listen", "data-plane": "dataplane", "Listen": "listen", "something": "", "": "",
	} {
		if got := nearest(word, keys); got != want {
			t.Errorf("nearest to %q is %q, want %q", word, got, want)
		}
	}
}

// FuzzSettingsFile: what is taken has known keys only; what is refused names its line.
func FuzzSettingsFile(f *testing.F) {
	up := upCommand()
	f.Add([]byte("name = \"a\"\ncapacity = 7\ndebug = true\n"))
	f.Add([]byte("[name]\na = 1\n"))
	f.Add([]byte("lisen = 1"))
	f.Add([]byte("a.b.c = [[1], {x = 2}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := choices{c: &cli.Context{Command: up}, file: map[string]string{}}
		err := s.read(b, "FILE")
		if err != nil && !strings.HasPrefix(err.Error(), "FILE:") {
			t.Fatalf("no place in %q", err)
		}
		for key := range s.file {
			if err == nil && !slices.Contains(settingKeys(up), key) {
				t.Fatalf("took %q", key)
			}
		}
	})
}

// FuzzConfigFile: what was read is written and read again as the same.
func FuzzConfigFile(f *testing.F) {
	f.Add([]byte("format = 1\n[settings]\na = 1\nb = \"x\"\n[[device]]\nname = \"n\"\nkey = \"k\"\naddresses = [\"1.2.3.4\"]\nenabled = false\npreshared-key = \"p\"\n"))
	f.Add([]byte("format = 1\n[[device]]\nnmae = 1\n"))
	f.Add([]byte("format = 2"))
	known := []string{"a", "b"}
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg, err := fromFile(b, "FILE", known)
		if err != nil {
			var hint *node.HintError
			if !strings.HasPrefix(err.Error(), "FILE:") && !errors.As(err, &hint) {
				t.Fatalf("no place in %q", err)
			}
			return
		}
		again, err := toml.Marshal(toFile(cfg))
		if err != nil {
			t.Fatal(err)
		}
		back, err := fromFile(again, "FILE", known)
		if err != nil || !slices.EqualFunc(cfg.Devices, back.Devices, sameDevice) {
			t.Fatalf("%+v became %+v: %v\n%s", cfg, back, err, again)
		}
	})
}

func sameDevice(a, b api.ConfigDevice) bool {
	psk := func(d api.ConfigDevice) string {
		if d.PresharedKey == nil {
			return ""
		}
		return *d.PresharedKey
	}
	return a.Name == b.Name && a.Key == b.Key && slices.Equal(a.Addresses, b.Addresses) && a.Enabled == b.Enabled && psk(a) == psk(b)
}
