package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst moves the flags of the command that args call before its other
// arguments, which is where package cli looks for them: people write both
// "device add --qr phone" and "device add phone --qr". After "--" nothing moves.
func flagsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	args = joinWatch(args)
	out, rest := args[:1:1], args[1:]
	commands, flags := app.Commands, app.Flags
	for {
		n := leadingFlags(rest, flags)
		out, rest = append(out, rest[:n]...), rest[n:]
		if len(rest) == 0 {
			return out
		}
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(rest[0]) })
		if i < 0 {
			break
		}
		out = append(out, rest[0])
		rest, flags, commands = rest[1:], commands[i].Flags, commands[i].Subcommands
	}
	var words []string
	for len(rest) > 0 && rest[0] != "--" {
		if n := leadingFlags(rest, flags); n > 0 {
			out, rest = append(out, rest[:n]...), rest[n:]
			continue
		}
		words, rest = append(words, rest[0]), rest[1:]
	}
	return append(append(out, words...), rest...)
}

// leadingFlags returns how many of the first args are flags and their values.
func leadingFlags(args []string, flags []cli.Flag) int {
	n := 0
	for n < len(args) && len(args[n]) > 1 && args[n][0] == '-' && args[n] != "--" {
		name, _, hasValue := strings.Cut(strings.TrimLeft(args[n], "-"), "=")
		n++
		if !hasValue && takesValue(flags, name) && n < len(args) {
			n++
		}
	}
	return n
}

func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			if name == watchName {
				return false // only after "="
			}
			d, ok := f.(cli.DocGenerationFlag)
			return ok && d.TakesValue()
		}
	}
	return false
}
