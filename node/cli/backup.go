package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"gatemesh/node"
	"gatemesh/node/api"
)

func backupCommand() *cli.Command {
	return &cli.Command{
		Name: "backup", Usage: "write what the gateways agree on to an encrypted file", ArgsUsage: "FILE|-",
		Description: "The gateway goes on meanwhile. The file is an age file (age-encryption.org), for each --recipient or\n" +
			"for a passphrase. It holds the cluster's secrets, but not the gateway's own key.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "recipient", Usage: "age `KEY` that can read it, age1…; may be given more than once"},
			passphraseFlag,
		},
		Action: backup,
	}
}

func backup(c *cli.Context) error {
	path, err := oneArg(c, "a file")
	if err != nil {
		return err
	}
	if f, ok := c.App.Writer.(*os.File); ok && path == "-" && term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor
		return usagef("a backup is not for a terminal; redirect it")
	}
	to, err := recipients(c)
	if err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		var b api.Restored
		write := func(w io.Writer) (err error) {
			b, err = encryptBackup(c.Context, s, w, to)
			return err
		}
		if path == "-" {
			err = write(c.App.Writer)
		} else {
			err = node.ReplaceFile(path, write)
		}
		if err == nil {
			fmt.Fprintf(c.App.ErrWriter, "backup of cluster %s: %d devices, %d cells\n", b.Cluster, b.Devices, b.Cells)
		}
		return err
	})
}

// encryptBackup writes a backup to w, encrypted, and reads it on the way: what
// does not end as a backup does is none.
func encryptBackup(ctx context.Context, s api.Service, w io.Writer, to []age.Recipient) (b api.Restored, err error) {
	enc, err := age.Encrypt(w, to...)
	if err != nil {
		return b, fmt.Errorf("encrypt backup: %w", err)
	}
	pr, pw := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		var err error
		b, err = node.CheckBackup(pr)
		pr.CloseWithError(err)
		checked <- err
	}()
	err = s.Backup(ctx, io.MultiWriter(enc, pw))
	pw.CloseWithError(err) // nil: the end
	if bad := <-checked; err == nil {
		err = bad
	}
	if err == nil {
		err = enc.Close()
	}
	return b, err
}

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "take a backup in", ArgsUsage: "FILE|-",
		Description: "With a running gateway the backup is merged into its cluster: it brings back what no gateway has any\n" +
			"more; what is newer stands, and what was deleted since stays deleted. With none it makes an empty data\n" +
			"directory that of a new gateway of the backup's cluster; start it with `gatemesh up`. It serves at once, and\n" +
			"members of old that answer bring it up to date.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "identity-file", Usage: "`PATH` of a file with age identities, AGE-SECRET-KEY-1…"},
			passphraseFlag,
			&cli.StringFlag{Name: "data", Usage: "`DIR` of the gateway", DefaultText: "as for up"},
			jsonFlag,
		},
		Action: restore,
	}
}

func restore(c *cli.Context) error {
	path, err := oneArg(c, "a file")
	if err != nil {
		return err
	}
	ids, err := identities(c)
	if err != nil {
		return err
	}
	f, err := openBackup(c, path)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := decryptBackup(f, ids)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := node.CheckBackup(plain); err != nil {
		return fmt.Errorf("%s: %w", path, node.ExplainBackup(err))
	}
	if _, err := plain.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r, dir, err := restoreTo(c, plain)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, r)
	}
	made := r.Made.Local().Format(time.DateTime)
	if dir != "" {
		_, err = fmt.Fprintf(c.App.Writer, "%s is a gateway of cluster %s as of %s: %d devices\nstart it with: %s up --data %s\n",
			dir, r.Cluster, made, r.Devices, self(), quote(dir))
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "merged a backup of %s with %d devices: the cluster had %d and has %d\n", made, r.Devices, r.Before, r.After)
	return err
}

// restoreTo restores into the gateway that runs, or into the data directory,
// which it returns then.
func restoreTo(c *cli.Context, r io.Reader) (out api.Restored, dir string, err error) {
	if dir, _, err = dataDir(cmp.Or(c.String("data"), os.Getenv("GATEMESH_DATA"))); err != nil {
		return out, "", err
	}
	socket := cmp.Or(c.String(socketFlag.Name), filepath.Join(dir, node.SocketName))
	client := api.NewClient(socket)
	defer client.Close()
	_, err = client.Status(c.Context)
	switch {
	case err == nil:
		out, err = client.Restore(c.Context, r)
		return out, "", err
	case !errors.Is(err, api.ErrNotRunning) || c.String(socketFlag.Name) != "":
		return out, "", err
	}
	log, err := newLog(c.App.ErrWriter, "text", false)
	if err != nil {
		return out, "", err
	}
	out, err = node.RestoreInto(c.Context, node.Config{Data: dir, Version: Version(), Log: log}, r)
	return out, dir, err
}

// openBackup opens a file, or keeps what comes from stdin in one that has no name.
func openBackup(c *cli.Context, path string) (*os.File, error) {
	if path != "-" {
		return os.Open(path)
	}
	f, err := os.CreateTemp("", "gatemesh-*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name()) // Windows leaves it; what is in it is encrypted
	if _, err := io.Copy(f, c.App.Reader); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	return f, nil
}

// decryptBackup returns the content of an age file. An error of the reader says
// which chunk of the file does not authenticate.
func decryptBackup(f *os.File, ids []age.Identity) (*io.SectionReader, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, size, err := age.DecryptReaderAt(f, st.Size(), ids...)
	var mismatch *age.NoIdentityMatchError
	switch {
	case errors.As(err, &mismatch):
		return nil, explainMismatch(mismatch, ids)
	case err != nil:
		return nil, &node.HintError{Err: fmt.Errorf("no age file, or cut short or altered: %w", err), Hint: "take another copy of this backup; nothing was restored"}
	}
	return io.NewSectionReader(chunks{r, st.Size(), size}, 0, size), nil
}

// explainMismatch says which secret is wanted.
func explainMismatch(err *age.NoIdentityMatchError, ids []age.Identity) error {
	const scrypt = "scrypt"
	_, byPassphrase := ids[0].(*age.ScryptIdentity)
	wanted := slices.Contains(err.StanzaTypes, scrypt)
	switch {
	case byPassphrase && wanted:
		return &node.HintError{Err: errors.New("wrong passphrase"), Hint: "it is the one that was given when the backup was made"}
	case byPassphrase:
		return &node.HintError{Err: errors.New("is encrypted for recipients, not with a passphrase"), Hint: "use --identity-file"}
	case wanted:
		return &node.HintError{Err: errors.New("is encrypted with a passphrase"), Hint: "leave --identity-file out"}
	}
	return &node.HintError{Err: errors.New("is encrypted for other recipients"), Hint: "use --identity-file with the identity of one of them"}
}

// chunks names the place of what age cannot read.
type chunks struct {
	io.ReaderAt
	file, plain int64 // bytes
}

// Sizes of the age format, in bytes.
const (
	ageChunk    = 64 << 10
	ageOverhead = 16
)

func (c chunks) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	chunk := (off + int64(n)) / ageChunk
	header := c.file - c.plain - (c.plain+ageChunk-1)/ageChunk*ageOverhead
	return n, &node.HintError{
		Err:  fmt.Errorf("was altered in chunk %d, from byte %d: %w", chunk+1, header+chunk*(ageChunk+ageOverhead), err),
		Hint: "take another copy of this backup, or an older one; nothing was restored",
	}
}
