package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"gatemesh/node"
)

// secret is one line that a command needs and nobody else should see: from a file, from the environment, or from
// whoever sits at the terminal.
type secret struct {
	what  string // "password"
	env   string
	hint  string // where there is none
	twice bool   // a new one, which is typed twice
}

var passwordFlag = &cli.StringFlag{Name: "password-file", Usage: "`PATH` of a file with the password; else GATEMESH_PASSWORD, else it is asked for"}

const passwordHint = "use --password-file or GATEMESH_PASSWORD"

var (
	password    = secret{what: "password", env: "GATEMESH_PASSWORD", hint: passwordHint}
	newPassword = secret{what: "password", env: "GATEMESH_PASSWORD", hint: passwordHint, twice: true}
	claimCode   = secret{
		what: "claim code", env: "GATEMESH_CLAIM_CODE",
		hint: "use --code file:PATH or GATEMESH_CLAIM_CODE",
	}
)

// read returns it; path is the file, "" if none was named.
func (s secret) read(c *cli.Context, path string) (string, error) {
	if path != "" {
		b, err := readSecret(strings.TrimPrefix(path, "file:"))
		if err != nil {
			return "", fmt.Errorf("read %s: %w", s.what, err)
		}
		return s.line(strings.TrimRight(b, "\r\n"), path)
	}
	if v := os.Getenv(s.env); v != "" {
		return s.line(v, s.env)
	}
	fd := int(os.Stdin.Fd()) //nolint:gosec // a file descriptor
	if !term.IsTerminal(fd) {
		return "", &node.HintError{Err: fmt.Errorf("no %s is given", s.what), Hint: s.hint}
	}
	first, err := s.ask(c, fd, s.what)
	if err != nil || !s.twice {
		return first, err
	}
	second, err := s.ask(c, fd, "once more")
	if err == nil && first != second {
		err = fmt.Errorf("the two %ss differ", s.what)
	}
	return first, err
}

func (s secret) ask(c *cli.Context, fd int, prompt string) (string, error) {
	fmt.Fprintf(c.App.ErrWriter, "%s: ", prompt)
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(c.App.ErrWriter)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", s.what, err)
	}
	return s.line(string(b), "that")
}

func (s secret) line(v, where string) (string, error) {
	if v == "" || strings.ContainsAny(v, "\r\n") {
		return "", &node.HintError{
			Err: fmt.Errorf("%s is not a %s", where, s.what), Hint: "a " + s.what + " is one line and not empty",
		}
	}
	return v, nil
}

var errNo = errors.New("nothing was done")

// agree asks whoever sits at the terminal; flag does it for scripts.
func agree(c *cli.Context, question, flag string) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) { //nolint:gosec // a file descriptor
		return &node.HintError{Err: errors.New("nobody is there to agree"), Hint: "use " + flag}
	}
	fmt.Fprintf(c.App.ErrWriter, "%s [y/N] ", question)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(line)); err != nil || a != "y" && a != "yes" {
		return errNo
	}
	return nil
}
