package cli

import (
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/table"
)

func TestScreen(t *testing.T) {
	got := screen("NAME  STATE\nberlin  alive\nmünchen  alive\n", 9, 24)
	want := "\x1b[HNAME  ST…\x1b[K\nberlin  …\x1b[K\nmünchen …\x1b[K\n\x1b[J"
	if got != want {
		t.Errorf("%q", got)
	}
	got = screen(strings.Repeat("x\n", 100), 80, 5)
	if want := "\x1b[H" + strings.Repeat("x\x1b[K\n", 3) + "… and 97 more\x1b[K\n\x1b[J"; got != want {
		t.Errorf("%q", got)
	}
}

// On a narrow terminal the last columns are left out, and said to be.
func TestNarrowTable(t *testing.T) {
	header := table.Row{"one", "two", "three", "four", "five"}
	rows := []table.Row{{"1", "2", "3", "4", strings.Repeat("5", 30)}, {"1", "2", "3", "4", "5"}}
	for width, want := range map[int]string{
		0: "FIVE", 80: "FIVE", 30: "FOUR  …\n", 5: "THREE  …\n",
	} {
		c := &canvas{width: width}
		if err := printTable(c, header, rows); err != nil || !strings.Contains(c.String(), want) {
			t.Errorf("width %d: %v\n%s", width, err, c)
		}
	}
}

func TestPause(t *testing.T) {
	args := joinWatch([]string{"gateway", "list", "--watch", "5", "--json", "--watch"})
	if got := strings.Join(args, " "); got != "gateway list --watch=5 --json --watch" {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{"", "x", "0", "-1", "1e9", "NaN"} {
		if err := new(pause).Set(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
