package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// joiningFile says that a join was begun and not finished: a gateway that was
// stopped meanwhile goes on with it, instead of beginning a cluster of its own
// on what it has received so far.
const joiningFile = "joining.json"

// joining is the content of that file.
type joining struct {
	Key  string `json:"key"`
	Join string `json:"join,omitempty"`
}

var errForeign = &HintError{
	Err:  errors.New("the data directory holds parts of a cluster that was not joined in full"),
	Hint: "start with that cluster's --key to go on, or use another --data directory",
}

// noteJoining writes down what is being joined.
func (n *Node) noteJoining() error {
	b, err := json.Marshal(joining{Key: n.cfg.Key.String(), Join: n.cfg.Join})
	if err == nil {
		err = WriteFile(filepath.Join(n.cfg.Data, joiningFile), b)
	}
	if err != nil {
		return fmt.Errorf("note join: %w", err)
	}
	return nil
}

// resumeJoining takes up an unfinished join unless the flags say what else to
// do. Another cluster is not joined over the remains of the first.
func (n *Node) resumeJoining() error {
	b, err := os.ReadFile(filepath.Join(n.cfg.Data, joiningFile))
	if errors.Is(err, fs.ErrNotExist) {
		if n.cfg.Join != "" && n.cfg.Key == nil {
			return hintf("add --key with the key that `gatemesh key show` prints at a member", "--join needs the key of the cluster")
		}
		return nil
	}
	var j joining
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err != nil {
		return fmt.Errorf("read unfinished join: %w", err)
	}
	key, err := ParseClusterKey(j.Key)
	if err != nil {
		return fmt.Errorf("read unfinished join: %w", err)
	}
	if n.cfg.Key == nil {
		n.cfg.Key = &key
		n.log.Info("an unfinished join goes on", "join", j.Join)
	}
	if *n.cfg.Key != key && !n.emptyStore() {
		return errForeign
	}
	if n.cfg.Join == "" && *n.cfg.Key == key {
		n.cfg.Join = j.Join
	}
	return nil
}

// endJoining forgets the note.
func (n *Node) endJoining() error {
	err := os.Remove(filepath.Join(n.cfg.Data, joiningFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget finished join: %w", err)
	}
	return nil
}

// emptyStore says whether the store holds nothing of a cluster. What cannot be
// read is not nothing.
func (n *Node) emptyStore() bool {
	admissions, err := n.store.Admissions()
	for _, a := range admissions {
		if !a.Key.Equal(n.public()) {
			return false
		}
	}
	_, settings, err2 := n.store.Setting(setCluster)
	return err == nil && err2 == nil && !settings && n.store.CountDevices() == 0
}
