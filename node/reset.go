package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// ErrReset is returned by [Node.Run] when the gateway has given up its cluster: a new Node of the same directory goes
// on, with [Config.Reset].
var ErrReset = errors.New("the gateway begins anew")

// A gateway that gives up its cluster cannot have its store taken away while it runs. It notes what is to be done,
// ends, and the next Node does it when it opens the directory, before anything else: each step may have been done
// before a crash. What it was is moved aside as the data directory of a gateway: `gatemesh up --data` brings that back.

// resetFile is the note.
const resetFile = "reset.json"

// resetNote says what becomes of a data directory.
type resetNote struct {
	// Saved is the directory, in the data directory, for what the gateway was.
	Saved string `json:"saved"`
	// Seed is that of its next key, in hex.
	Seed string `json:"seed,omitempty"`
	// Token is a join token. If it comes to nothing, what was saved is put back. "": none, the gateway begins anew.
	Token string `json:"token,omitempty"`
	// Key and Join are a cluster key and a member's address, in place of a token.
	Key  string `json:"key,omitempty"`
	Join string `json:"join,omitempty"`
	// Back says that what was saved is put back now.
	Back bool `json:"back,omitempty"`
}

// kept are the files of a data directory that make a gateway what it is, beside its store and its key.
var kept = []string{claimFile, restoredFile, claimedFile, flagsFile}

// flagsFile is what node/cli remembers. A gateway that begins anew keeps it.
const flagsFile = "flags.json"

// savedName is a name for a directory with what a gateway was.
func savedName(now time.Time) string { return "before-" + now.UTC().Format("20060102T150405") }

// noteReset has the next Node begin anew as the note says, once this one ends by giveUp. The note is durable when it
// returns where it will put what the gateway was. From then on no change is taken, which nobody would have. There is
// one note: who comes second is refused.
//
// check is called once no change is taken any more; its error is returned, and nothing noted. nil: nothing is checked.
func (n *Node) noteReset(r resetNote, check func() error) (saved string, err error) {
	if !n.resets.CompareAndSwap(false, true) {
		return "", api.Errorf(api.Unavailable, "wait until it has ended", "the gateway is leaving its cluster already")
	}
	if !r.Back {
		r.Saved = unused(n.cfg.Data, r.Saved)
	}
	n.store.Reseal(leaving) // in place of expelled, which comes and goes meanwhile
	if check != nil {
		err = check()
	}
	if err == nil {
		err = n.writeReset(r)
	}
	if err != nil {
		n.store.Unseal(leaving)
		n.resets.Store(false)
		return "", err
	}
	return filepath.Join(n.cfg.Data, r.Saved), nil
}

func (n *Node) writeReset(r resetNote) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = writeNew(filepath.Join(n.cfg.Data, resetFile), b)
	}
	if err != nil {
		return fmt.Errorf("note reset: %w", err)
	}
	return nil
}

// settledDevices returns how many devices there are with those whose change was taken before.
func (n *Node) settledDevices(ctx context.Context) (int, error) {
	if err := n.store.Settle(ctx); err != nil {
		return 0, fmt.Errorf("count devices: %w", err)
	}
	return n.store.CountDevices(), nil
}

// leaving is what changes are refused with once a reset is noted.
var leaving = &cluster.SealedError{
	Reason: "this gateway is leaving its cluster: it takes no changes any more",
	Advice: "make the change at another gateway",
}

// unused returns a name that nothing in a directory has: name, or name and a number.
func unused(dir, name string) string {
	free := name
	for i := 2; ; i++ {
		if _, err := os.Lstat(filepath.Join(dir, free)); err != nil {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, i)
	}
}

// readReset returns the note, and whether there is one.
func readReset(dir string) (r resetNote, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, resetFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && (r.Saved == "" || r.Saved != filepath.Base(r.Saved)) {
		err = fmt.Errorf("%q is no name of a directory", r.Saved)
	}
	if err != nil {
		return r, true, fmt.Errorf("read %s: %w", resetFile, err)
	}
	return r, true, nil
}

// finishReset does what the note says. Nobody has the store open.
func finishReset(dir string, r resetNote) error {
	steps := r.away
	if r.Back {
		steps = r.back
	}
	if err := steps(dir, filepath.Join(dir, r.Saved)); err != nil {
		return fmt.Errorf("begin anew: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, resetFile)); err != nil {
		return fmt.Errorf("begin anew: %w", err)
	}
	return syncDir(dir)
}

// away moves aside what the gateway was, and leaves what a newcomer has.
func (r resetNote) away(dir, saved string) error {
	seed, err := hex.DecodeString(r.Seed)
	if err != nil || len(seed) != ed25519.SeedSize {
		return errors.New("the note holds no key")
	}
	if err := os.MkdirAll(saved, 0o700); err != nil {
		return err
	}
	if err := copyOnce(filepath.Join(dir, identityFile), filepath.Join(saved, identityFile)); err != nil {
		return err
	}
	if err := moveOnce(filepath.Join(dir, storeDir), filepath.Join(saved, storeDir)); err != nil {
		return err
	}
	for _, name := range kept {
		if err := copyOnce(filepath.Join(dir, name), filepath.Join(saved, name)); err != nil {
			return err
		}
		if name == flagsFile {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := errors.Join(syncDir(saved), syncDir(dir)); err != nil {
		return err
	}
	if r.Token != "" || r.Join != "" {
		b, err := json.Marshal(joining{Token: r.Token, Key: r.Key, Join: r.Join})
		if err == nil {
			err = errors.Join(WriteFile(filepath.Join(dir, joiningFile), b),
				WriteFile(filepath.Join(dir, onTrialFile), []byte(r.Saved+"\n")),
				WriteFile(filepath.Join(dir, claimedFile), []byte(r.Saved+"\n")))
		}
		if err != nil {
			return err
		}
	}
	return WriteFile(filepath.Join(dir, identityFile), []byte(r.Seed+"\n"))
}

// claimedFile says that the gateway was claimed: what its command line says of a cluster may be of the one that it has
// left.
const claimedFile = "claimed"

// onTrialFile names the directory that is put back if the gateway, which was claimed, is not let in.
const onTrialFile = "on-trial"

// onTrial says that the gateway was claimed and is not let in yet: then what it was told to join is not asked for.
func onTrial(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, onTrialFile))
	return err == nil
}

// abides is agrees, but for a gateway that was claimed: the flags of before do not keep it from starting.
func (n *Node) abides(f facts) error {
	err := n.agrees(f)
	if _, missing := os.Stat(filepath.Join(n.cfg.Data, claimedFile)); err == nil || missing != nil {
		return err
	}
	n.log.Warn("this gateway was claimed by the cluster it is in; a flag is of another one, and ignored", "err", err)
	return nil
}

// putBack has the next Node be what this one was before it was claimed, if it was, and nothing of another cluster has
// come: then it returns ErrReset, else cause.
func (n *Node) putBack(cause error) error {
	b, err := os.ReadFile(filepath.Join(n.cfg.Data, onTrialFile))
	saved := strings.TrimSpace(string(b))
	if err != nil || saved != filepath.Base(saved) || !n.emptyStore() {
		return cause
	}
	n.log.Error("the cluster that claimed this gateway does not let it in; it goes back to what it was", "err", cause)
	if _, err := n.noteReset(resetNote{Saved: saved, Back: true}, nil); err != nil {
		return errors.Join(cause, err)
	}
	return ErrReset
}

// endTrial says that a gateway that was claimed is a member.
func (n *Node) endTrial() error {
	err := os.Remove(filepath.Join(n.cfg.Data, onTrialFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what was before: %w", err)
	}
	return nil
}

// back puts in place again what was moved aside. What the gateway is now is lost.
func (r resetNote) back(dir, saved string) error {
	if _, err := os.Stat(filepath.Join(saved, storeDir)); err == nil {
		if err := os.RemoveAll(filepath.Join(dir, storeDir)); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(saved, storeDir), filepath.Join(dir, storeDir)); err != nil {
			return err
		}
	}
	for _, name := range []string{joiningFile, onTrialFile, claimedFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range append(slices.Clone(kept), identityFile) {
		b, err := os.ReadFile(filepath.Join(saved, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = WriteFile(filepath.Join(dir, name), b)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(saved), syncDir(dir))
}

// copyOnce copies a small file if it is there and the copy is not.
func copyOnce(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return WriteFile(to, b)
}

// moveOnce moves a directory unless that was done before; then what is in its old place came later.
func moveOnce(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return os.RemoveAll(from)
	}
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// newSeed draws the seed of a node key, in hex.
func newSeed() (string, ed25519.PrivateKey) {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) //nolint:errcheck // crypto/rand.Read never fails
	return hex.EncodeToString(seed), ed25519.NewKeyFromSeed(seed)
}

// Reset returns the configuration with which a gateway goes on after [ErrReset]: what it was told about the cluster
// that it has left does not count any more.
func (c Config) Reset() Config {
	c.Key, c.Join, c.Token, c.Logon, c.Pool = nil, "", nil, nil, netip.Prefix{}
	return c
}
