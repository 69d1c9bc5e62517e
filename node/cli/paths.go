package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

var socketFlag = &cli.StringFlag{
	Name: "socket", Usage: "`PATH` of the gateway's control socket", EnvVars: []string{"GATEMESH_SOCKET"},
	DefaultText: "gatemesh.sock in the data directory",
}

// defaultData is the system's directory for root and the user's own otherwise
// (XDG base directory specification).
func defaultData() (string, error) {
	if runtime.GOOS != "windows" && os.Geteuid() == 0 {
		return "/var/lib/gatemesh", nil
	}
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "gatemesh"), nil
	}
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		d, err := os.UserConfigDir()
		return filepath.Join(d, "gatemesh"), err
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "share", "gatemesh"), err
}

// dataDir returns the data directory of this call and whether it was named.
func dataDir(flag string) (dir string, named bool, err error) {
	if flag != "" {
		dir, err = filepath.Abs(flag)
		return dir, true, err
	}
	dir, err = defaultData()
	if err != nil {
		err = &node.HintError{Err: errors.New("this user has no home directory"), Hint: "name a directory with --data"}
	}
	return dir, false, err
}

// socketPath returns where the gateway that a command is for listens.
func socketPath(c *cli.Context) (string, error) {
	if s := c.String(socketFlag.Name); s != "" {
		return s, nil
	}
	dir, _, err := dataDir(os.Getenv("GATEMESH_DATA"))
	return filepath.Join(dir, node.SocketName), err
}

// ask runs f with a client of the gateway that the command is for.
func ask(c *cli.Context, f func(api.Service) error) error {
	path, err := socketPath(c)
	if err != nil {
		return err
	}
	client := api.NewClient(path)
	defer client.Close()
	client.OnStored = func(s api.Stored) {
		if s.Of > 1 {
			fmt.Fprintf(c.App.ErrWriter, "stored on %d of %d gateways\n", s.On, s.Of)
		}
	}
	return f(client)
}

// self is how the program was called, to be used in commands that people copy.
func self() string {
	exe, err := os.Executable()
	switch {
	case err != nil:
		return "gatemesh"
	case strings.Contains(exe, string(filepath.Separator)+"go-build"):
		return "go run ."
	}
	if found, err := exec.LookPath("gatemesh"); err == nil {
		if a, err := filepath.EvalSymlinks(found); err == nil && a == exe {
			return "gatemesh"
		}
	}
	if filepath.Base(exe) != "gatemesh" { // a test binary, or renamed
		return "gatemesh"
	}
	return os.Args[0]
}
