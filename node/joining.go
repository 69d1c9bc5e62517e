package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gatemesh/cluster"
)

// joiningFile says that a join was begun and not finished: a gateway that was
// stopped meanwhile goes on with it, instead of beginning a cluster of its own
// on what it has received so far.
const joiningFile = "joining.json"

// joining is the content of that file.
type joining struct {
	Key   string `json:"key,omitempty"`
	Join  string `json:"join,omitempty"`
	Token string `json:"token,omitempty"` // in place of both
	// Cluster is the id of the one that what has come so far is of, in hex; "": it is not known.
	Cluster string `json:"cluster,omitempty"`
}

var errForeign = &HintError{
	Err:  errors.New("the data directory holds parts of a cluster that was not joined in full"),
	Hint: "start with what that cluster was joined with to go on, or use another --data directory",
}

// noteJoining writes down what is being joined.
func (n *Node) noteJoining() error {
	j := joining{Join: n.cfg.Join, Cluster: n.remains}
	if n.cfg.Token != nil {
		j.Token = n.cfg.Token.String()
	} else {
		j.Key = n.cfg.Key.String()
	}
	b, err := json.Marshal(j)
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
		if n.cfg.Join != "" && n.cfg.Key == nil && n.cfg.Token == nil && n.cfg.Logon == nil {
			return hintf("add --key with the key that `gatemesh key show` prints at a member, or use a join token of `gatemesh token create`",
				"--join HOST needs the key of the cluster")
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
	n.remains = j.Cluster
	if j.Token != "" {
		return n.resumeToken(j.Token)
	}
	key, err := ParseClusterKey(j.Key)
	if err != nil {
		return fmt.Errorf("read unfinished join: %w", err)
	}
	if t := n.cfg.Token; t != nil {
		if n.remains != "" && n.remains == clusterOf(t.Cluster) {
			return nil
		}
		return n.overRemains()
	}
	if n.cfg.Key == nil {
		n.cfg.Key = &key
		n.log.Info("an unfinished join goes on", "join", j.Join)
	}
	if *n.cfg.Key != key {
		return n.overRemains()
	}
	if n.cfg.Join == "" {
		n.cfg.Join = j.Join
	}
	return nil
}

// resumeToken takes up an unfinished join by a token.
func (n *Node) resumeToken(text string) error {
	t, err := ParseJoinToken(text)
	if err != nil {
		return fmt.Errorf("read unfinished join: %w", err)
	}
	switch {
	case n.cfg.Token != nil && string(n.cfg.Token.Cluster) == string(t.Cluster):
	case n.cfg.Token != nil || n.cfg.Key != nil:
		return n.overRemains()
	default:
		n.cfg.Token = &t
		n.log.Info("an unfinished join goes on", "token", cluster.TokenID(t.ID))
	}
	return nil
}

// overRemains refuses unless nothing of the cluster has come that was being
// joined.
func (n *Node) overRemains() error {
	if !n.emptyStore() {
		return errForeign
	}
	return nil
}

// clusterOf is the id of a cluster as a note has it.
func clusterOf(id []byte) string { return fmt.Sprintf("%x", id) }

// ofRemains refuses what a member of another cluster than that of the remains would hand over: two may have one key.
func (n *Node) ofRemains(remains string, welcome []byte) error {
	if remains == "" || len(welcome) == 0 || clusterOf(welcome) == remains {
		return nil
	}
	return errForeign
}

// noteCluster writes down which cluster hands over its configuration, before the first part of it.
func (n *Node) noteCluster(welcome []byte) error {
	if id := clusterOf(welcome); len(welcome) > 0 && id != n.remains {
		n.remains = id
		return n.noteJoining()
	}
	return nil
}

// endJoining forgets the note.
func (n *Node) endJoining() error {
	err := os.Remove(filepath.Join(n.cfg.Data, joiningFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget finished join: %w", err)
	}
	return n.endTrial()
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
