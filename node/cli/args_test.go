package cli

import (
	"io"
	"strings"
	"testing"
)

func TestFlagsFirst(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	for in, want := range map[string]string{
		"g":                                             "g",
		"g status --json":                               "g status --json",
		"g device add phone --qr":                       "g device add --qr phone",
		"g device add --qr phone":                       "g device add --qr phone",
		"g --socket S device show phone --json":         "g --socket S device show --json phone",
		"g --socket=S device list":                      "g --socket=S device list",
		"g device add cam --public-key K --qr":          "g device add --public-key K --qr cam",
		"g device add cam --public-key=K":               "g device add --public-key=K cam",
		"g device rename a b":                           "g device rename a b",
		"g device rename -- -a --qr":                    "g device rename -- -a --qr",
		"g device add a --allowed-ips 10.0.0.0/8 -- -b": "g device add --allowed-ips 10.0.0.0/8 a -- -b",
		"g nonsense x --json":                           "g --json nonsense x",
		"g up --key K surplus":                          "g up --key K surplus",
		"g device add x --public-key":                   "g device add --public-key x",
	} {
		if got := strings.Join(flagsFirst(app, strings.Fields(in)), " "); got != want {
			t.Errorf("%s\n  became %s\n  want   %s", in, got, want)
		}
	}
}
