package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

// Exit statuses.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// Main runs the program with args, the first of which is its name, and returns
// its exit status.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one ends the process at once.
	release := context.AfterFunc(ctx, stop)

	app := newApp(stdout, stderr)
	err := app.RunContext(ctx, flagsFirst(app, args))
	if release() {
		stop()
	}
	if err == nil {
		return exitOK
	}
	return report(stderr, err)
}

// usageError is an error of the command line itself.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// statusError ends the program with a status of its own.
type statusError struct {
	err    error
	status int
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// report writes err as people read it and returns the exit status.
func report(stderr io.Writer, err error) int {
	if !errors.Is(err, errDiffers) { // what differs was printed
		fmt.Fprintf(stderr, "gatemesh: %v\n", err)
	}
	hint, status := "", exitError
	var known *node.HintError
	var refused *api.Error
	var usage *usageError
	var own *statusError
	switch {
	case errors.As(err, &known):
		hint = known.Hint
	case errors.As(err, &refused):
		hint = refused.Hint
	case errors.Is(err, api.ErrNotRunning):
		hint = "start it with `" + self() + " up`, or name its socket with --socket"
	case errors.Is(err, api.ErrNotAllowed):
		hint = "run this as the gateway's user, with sudo for instance"
	case errors.As(err, &usage):
		hint, status = "`"+self()+" --help` shows commands and flags", exitUsage
	}
	if errors.As(err, &own) {
		status = own.status
	}
	if hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
	return status
}

func newApp(stdout, stderr io.Writer) *cli.App {
	usage := func(_ *cli.Context, err error, _ bool) error { return &usageError{err} }
	app := &cli.App{
		Name:            "gatemesh",
		Usage:           "a peer-to-peer mesh of WireGuard gateways",
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		Flags:           []cli.Flag{socketFlag},
		OnUsageError:    usage,
		ExitErrHandler:  func(*cli.Context, error) {}, // Main reports
		Commands: []*cli.Command{
			upCommand(), statusCommand(), deviceCommand(), gatewayCommand(), drainCommand(), conflictsCommand(), addressCommand(),
			userCommand(), claimCodeCommand(), syncCommand(), resyncCommand(), backupCommand(), restoreCommand(),
			configCommand(),
			poolCommand(), auditCommand(), tokenCommand(), clusterCommand(), keyCommand(), keysCommand(), monitorCommand(),
			doctorCommand(), versionCommand(),
		},
		Action: noCommand,

		EnableBashCompletion: true,
	}
	for _, c := range app.Commands {
		prepare(c, usage)
	}
	return app
}

// prepare gives a command and those below it the manners of all.
func prepare(c *cli.Command, usage cli.OnUsageErrorFunc) {
	c.OnUsageError = usage
	c.HideHelpCommand = true
	if len(c.Subcommands) > 0 && c.Action == nil {
		c.Action = noCommand
	}
	for _, s := range c.Subcommands {
		prepare(s, usage)
	}
}

// noCommand is what a group of commands does without one of them.
func noCommand(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		return usagef("there is no command %q", name)
	}
	return cli.ShowSubcommandHelp(c)
}

// oneArg returns the command's only argument.
func oneArg(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", usagef("%s takes %s and nothing else", command(c), what)
	}
	arg := c.Args().First()
	if arg == "" || arg == "." || arg == ".." {
		return "", usagef("%q is not %s", arg, what)
	}
	return arg, nil
}

func noArgs(c *cli.Context) error {
	if c.NArg() != 0 {
		return usagef("%s takes no arguments", command(c))
	}
	return nil
}

// command is what was called: "device add".
func command(c *cli.Context) string { return strings.TrimPrefix(c.Command.HelpName, c.App.Name+" ") }
