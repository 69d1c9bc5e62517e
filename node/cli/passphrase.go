package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"gatemesh/node"
)

// passphraseEnv is a passphrase for scripts; a flag would show it to everybody.
const passphraseEnv = "GATEMESH_PASSPHRASE"

// maxSecretFile bounds what is read of a file with a passphrase or identities, in bytes.
const maxSecretFile = 64 << 10

var passphraseFlag = &cli.StringFlag{Name: "passphrase-file", Usage: "`PATH` of a file with the passphrase; else " + passphraseEnv + ", else it is asked for"}

// passphrase returns the passphrase of --passphrase-file, of the environment or of
// whoever sits at the terminal, who types a new one twice.
func passphrase(c *cli.Context, isNew bool) (string, error) {
	if path := c.String(passphraseFlag.Name); path != "" {
		b, err := readSecret(path)
		if err != nil {
			return "", fmt.Errorf("read passphrase: %w", err)
		}
		return sane(strings.TrimRight(b, "\r\n"), path)
	}
	if s := os.Getenv(passphraseEnv); s != "" {
		return sane(s, passphraseEnv)
	}
	fd := int(os.Stdin.Fd()) //nolint:gosec // a file descriptor
	if !term.IsTerminal(fd) {
		return "", &node.HintError{Err: errors.New("no passphrase is given"), Hint: passphraseHint(isNew)}
	}
	first, err := askPassphrase(c, fd, "passphrase: ")
	if err != nil || !isNew {
		return first, err
	}
	second, err := askPassphrase(c, fd, "once more:  ")
	if err == nil && first != second {
		err = errors.New("the two passphrases differ")
	}
	return first, err
}

func passphraseHint(isNew bool) string {
	other := "--identity-file"
	if isNew {
		other = "--recipient"
	}
	return "use --passphrase-file, " + passphraseEnv + " or " + other
}

func askPassphrase(c *cli.Context, fd int, prompt string) (string, error) {
	fmt.Fprint(c.App.ErrWriter, prompt)
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(c.App.ErrWriter)
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	return sane(string(b), "that")
}

func sane(s, where string) (string, error) {
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return "", &node.HintError{Err: fmt.Errorf("%s is not a passphrase", where), Hint: "a passphrase is one line and not empty"}
	}
	return s, nil
}

// readSecret reads a small file.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err == nil && len(b) > maxSecretFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxSecretFile)
	}
	return string(b), err
}

// recipients returns for whom a backup is encrypted: --recipient, else a passphrase.
func recipients(c *cli.Context) ([]age.Recipient, error) {
	given := c.StringSlice("recipient")
	if len(given) == 0 {
		p, err := passphrase(c, true)
		if err != nil {
			return nil, err
		}
		r, err := age.NewScryptRecipient(p)
		return []age.Recipient{r}, err
	}
	if c.IsSet(passphraseFlag.Name) {
		return nil, usagef("--recipient and --passphrase-file exclude each other")
	}
	var out []age.Recipient
	for _, s := range given {
		rs, err := age.ParseRecipients(strings.NewReader(s))
		if err != nil {
			return nil, &node.HintError{Err: fmt.Errorf("%q is not an age recipient", s), Hint: "`age-keygen` prints one: age1…"}
		}
		out = append(out, rs...)
	}
	return out, nil
}

// identities returns with what a backup is decrypted: --identity-file, else a passphrase.
func identities(c *cli.Context) ([]age.Identity, error) {
	path := c.String("identity-file")
	if path == "" {
		p, err := passphrase(c, false)
		if err != nil {
			return nil, err
		}
		id, err := age.NewScryptIdentity(p)
		return []age.Identity{id}, err
	}
	if c.IsSet(passphraseFlag.Name) {
		return nil, usagef("--identity-file and --passphrase-file exclude each other")
	}
	text, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	ids, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil { // its text may quote the file
		return nil, &node.HintError{
			Err: fmt.Errorf("%s holds no age identity", path), Hint: "`age-keygen -o FILE` makes one: AGE-SECRET-KEY-1…",
		}
	}
	return ids, nil
}
