package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

var jsonFlag = &cli.BoolFlag{Name: "json", Usage: "print JSON"}

// printJSON writes v for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printTable writes rows for people, in columns without lines. On a terminal that is too narrow for all columns the
// last ones are left out.
func printTable(w io.Writer, header table.Row, rows []table.Row) error {
	width := terminalWidth(w)
	for n := len(header); ; n-- {
		text := drawTable(header, rows, n)
		if width <= 0 || n <= fewColumns || text.width() <= width {
			_, err := fmt.Fprintln(w, string(text))
			return err
		}
	}
}

// fewColumns are never left out.
const fewColumns = 3

// drawn is a table as text.
type drawn string

func (d drawn) width() (most int) {
	for l := range strings.Lines(string(d)) {
		most = max(most, text.StringWidthWithoutEscSequences(strings.TrimRight(l, "\n")))
	}
	return most
}

// drawTable draws the first n columns, and a sign that there are more.
func drawTable(header table.Row, rows []table.Row, n int) drawn {
	first := func(r table.Row) table.Row { return r }
	if n < len(header) {
		header = append(slices.Clone(header[:n]), "…")
		first = func(r table.Row) table.Row { return r[:min(n, len(r))] }
	}
	t := table.NewWriter()
	t.SetStyle(table.Style{
		Box:     table.BoxStyle{PaddingRight: "  "},
		Format:  table.FormatOptions{Header: text.FormatUpper},
		Options: table.OptionsNoBordersAndSeparators,
	})
	t.SuppressTrailingSpaces()
	t.AppendHeader(header)
	for _, r := range rows {
		t.AppendRow(first(r))
	}
	return drawn(t.Render())
}

// canvas is what a table is drawn on for a terminal.
type canvas struct {
	bytes.Buffer
	width int
}

// terminalWidth returns how many columns w has; 0 if it is no terminal.
func terminalWidth(w io.Writer) int {
	switch w := w.(type) {
	case *canvas:
		return w.width
	case *os.File:
		if width, _, err := term.GetSize(int(w.Fd())); err == nil {
			return width
		}
	}
	return 0
}

// bytesText writes a number of bytes as people read it.
func bytesText(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		if f /= 1000; f < 999.5 {
			break
		}
	}
	return fmt.Sprintf("%.3g %s", f, unit)
}

// ago writes how long ago a time was.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	d := max(0, now.Sub(*t))
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// dash stands for what is empty.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
