package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"gatemesh/node/api"
)

// watchEvery is how often a list is asked for again.
const watchEvery = 2 * time.Second

// pause is how long --watch waits; its value may be left out.
type pause struct{ d time.Duration }

// Set implements [flag.Value]. Without a value package flag sets "true".
func (p *pause) Set(s string) error {
	if s == "true" {
		p.d = watchEvery
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0.1 && f <= 3600) { // NaN neither
		return fmt.Errorf("%q is not a number of seconds from 0.1 to 3600", s)
	}
	p.d = time.Duration(f * float64(time.Second))
	return nil
}

func (p *pause) String() string {
	if p == nil || p.d == 0 {
		return ""
	}
	return strconv.FormatFloat(p.d.Seconds(), 'g', -1, 64)
}

// IsBoolFlag lets the value be left out.
func (p *pause) IsBoolFlag() bool { return true }

const watchName = "watch"

// listFlags are those of every list.
func listFlags(more ...cli.Flag) []cli.Flag {
	return append(more, jsonFlag, &cli.GenericFlag{
		Name: watchName, Usage: "show it again and again, every so many `SECONDS`, until Ctrl-C", Value: &pause{},
		DefaultText: "2",
	})
}

// joinWatch writes "--watch 5" as "--watch=5", which is how package flag takes a value that may be left out.
func joinWatch(args []string) []string {
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		if a := args[i]; (a == "--"+watchName || a == "-"+watchName) && i+1 < len(args) {
			if _, err := strconv.ParseFloat(args[i+1], 64); err == nil {
				out = append(out, a+"="+args[i+1])
				i++
				continue
			}
		}
		out = append(out, args[i])
	}
	return out
}

// list prints what get returns: as JSON, or by table; with --watch again and again, as one JSON document a line or
// in place of the table before.
func list[T any](c *cli.Context, get func(context.Context, api.Service) (T, error),
	table func(io.Writer, T) error,
) error {
	return ask(c, func(s api.Service) error {
		w, _ := c.Generic(watchName).(*pause)
		if w == nil || w.d == 0 {
			v, err := get(c.Context, s)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, v)
			}
			return table(c.App.Writer, v)
		}
		return watch(c, w.d, func() error {
			v, err := get(c.Context, s)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return json.NewEncoder(c.App.Writer).Encode(v)
			}
			b := canvas{width: terminalWidth(c.App.Writer)}
			if err := table(&b, v); err != nil {
				return err
			}
			return redraw(c.App.Writer, b.String())
		})
	})
}

// watch calls show every so often until the program is interrupted, which is no error.
func watch(c *cli.Context, every time.Duration, show func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := show(); err != nil {
			if c.Context.Err() != nil {
				return nil //nolint:nilerr // the question was interrupted
			}
			return err
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-tick.C:
		}
	}
}

// redraw writes a table over the one before, cut to the terminal; elsewhere below it, with an empty line between.
func redraw(w io.Writer, table string) error {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		_, err := fmt.Fprintln(w, table)
		return err
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 1 {
		width, height = 80, 24
	}
	_, err = io.WriteString(w, screen(table, width, height))
	return err
}

// screen is a table as it fills a terminal: from its upper left corner, each line cut and cleared to its end, the
// rest cleared.
func screen(table string, width, height int) string {
	lines := strings.Split(strings.TrimRight(table, "\n"), "\n")
	if height = max(height-1, 1); len(lines) > height {
		more := len(lines) - height + 1
		lines = append(lines[:height-1], fmt.Sprintf("… and %d more", more))
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	for _, l := range lines {
		if text.StringWidthWithoutEscSequences(l) > width {
			l = text.Trim(l, width-1) + "…"
		}
		b.WriteString(l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	return b.String()
}
