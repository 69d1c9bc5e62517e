package node

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// identityFile holds the gateway's own Ed25519 seed, in hex, in the data
// directory. A gateway that loses it is a new gateway.
const identityFile = "node.key"

// storeDir is the store's directory in the data directory.
const storeDir = "store"

// loadIdentity reads the gateway's key from dir, or makes one at first.
func loadIdentity(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed) //nolint:errcheck // crypto/rand.Read never fails
		err := writeNew(path, []byte(hex.EncodeToString(seed)+"\n"))
		if errors.Is(err, fs.ErrExist) {
			return loadIdentity(dir) // another process was faster
		}
		if err != nil {
			return nil, fmt.Errorf("write identity: %w", err)
		}
		return ed25519.NewKeyFromSeed(seed), nil
	case err != nil:
		return nil, fmt.Errorf("read identity: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("read identity: %s does not hold a key", path)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// WriteFile replaces path by b such that a crash leaves the old or the new
// content, never a part. Only the owner may read it.
func WriteFile(path string, b []byte) error { return publish(path, content(b), os.Rename) }

// ReplaceFile is WriteFile of what write writes. After an error of write path is as it was.
func ReplaceFile(path string, write func(io.Writer) error) error {
	return publish(path, write, os.Rename)
}

// writeNew is WriteFile for a path that must not exist: fs.ErrExist if it does.
func writeNew(path string, b []byte) error { return publish(path, content(b), os.Link) }

func content(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// publish writes a file durably beside path and lets place put it there.
func publish(path string, write func(io.Writer) error, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriterSize(f, 64<<10)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return syncDir(filepath.Dir(path))
}
