package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
)

func env(name string) []string { return []string{"GATEMESH_" + name} }

func upCommand() *cli.Command {
	return &cli.Command{
		Name:  "up",
		Usage: "start a gateway",
		Description: "Without flags it begins a new cluster, or comes back as what it was. With --key it\n" +
			"joins the cluster of that key: the one on the LAN, or the one at --join. With a token of\n" +
			"`gatemesh token create` at --join it needs no key. Flags are remembered in the data directory.",
		Flags: append([]cli.Flag{
			configFlag,
			&cli.StringFlag{Name: "key", Usage: "`KEY` of the cluster, gmk1-… or file:PATH", EnvVars: env("KEY")},
			&cli.StringFlag{
				Name: "join", Usage: "a join `TOKEN`, gmt1-… or file:PATH; or a member's HOST[:PORT], beside --key",
				EnvVars: env("JOIN"),
			},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of this gateway", DefaultText: "the host's", EnvVars: env("NAME")},
			&cli.StringFlag{Name: "data", Usage: "`DIR` of all that it keeps", DefaultText: "/var/lib/gatemesh for root, else the user's own", EnvVars: env("DATA")},
			&cli.StringFlag{Name: "listen", Usage: "UDP `:PORT` for devices", Value: node.DefaultListen, EnvVars: env("LISTEN")},
			&cli.StringFlag{Name: "public", Usage: "`HOST:PORT` at which devices reach it", DefaultText: "as other gateways see it", EnvVars: env("PUBLIC")},
			&cli.StringFlag{Name: "mesh", Usage: "TCP and UDP `[ADDR]:PORT` for gateways", Value: node.DefaultMesh, EnvVars: env("MESH")},
			&cli.StringFlag{Name: "capacity", Usage: "`N` devices that it may serve", Value: strconv.Itoa(node.DefaultCapacity), EnvVars: env("CAPACITY")},
			&cli.BoolFlag{
				Name: "standby", Usage: "serve devices only while no active gateway has room",
				EnvVars: env("STANDBY"),
			},
			&cli.StringFlag{Name: "pool", Usage: "`PREFIX` of the devices' addresses, at the beginning of a cluster", DefaultText: node.DefaultPool, EnvVars: env("POOL")},
			&cli.StringFlag{Name: "dataplane", Usage: "auto, tun or userspace", Value: node.DefaultDataplane, EnvVars: env("DATAPLANE")},
			&cli.StringFlag{Name: "log", Usage: "text or json", Value: "text", EnvVars: env("LOG")},
			&cli.BoolFlag{Name: "debug", Usage: "log more", EnvVars: env("DEBUG")},
		}, logonFlags()...),
		Action: up,
	}
}

func up(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	told, err := readChoices(c)
	if err != nil {
		return err
	}
	data, named, err := dataDir(told.once("data"))
	if err != nil {
		return err
	}
	if told.old, err = loadRemembered(data); err != nil {
		return err
	}
	cfg, err := upConfig(told, data)
	if err != nil {
		return err
	}
	if cfg.Logon, err = logon(told); err != nil {
		return err
	}
	g := greeting{out: c.App.Writer, cfg: &cfg, named: named}
	cfg.Started = g.print
	cfg.Ready = func() {
		if err := told.old.save(data); err != nil {
			cfg.Log.Warn("flags are not remembered", "err", err)
		}
	}
	err = run(c.Context, &cfg)
	if c.Context.Err() != nil {
		cfg.Log.Info("gateway stops", "reason", context.Cause(c.Context))
	}
	return err
}

// run runs a gateway, and again as what it has become.
func run(ctx context.Context, cfg *node.Config) error {
	for {
		n, err := node.New(*cfg)
		if err != nil {
			return err
		}
		err = n.Run(ctx)
		closed := n.Close()
		switch {
		case errors.Is(err, node.ErrLeft):
			cfg.Log.Info("gateway stops", "reason", err)
			return closed
		case closed != nil || !errors.Is(err, node.ErrReset):
			return errors.Join(err, closed)
		}
		cfg.Log.Info("gateway begins anew")
		*cfg = cfg.Reset()
	}
}

// upConfig makes what a gateway was told its configuration.
func upConfig(told choices, data string) (cfg node.Config, err error) {
	cfg = node.Config{
		Data:      data,
		Name:      told.value("name", ""),
		Listen:    told.value("listen", node.DefaultListen),
		Public:    told.value("public", ""),
		Mesh:      told.value("mesh", node.DefaultMesh),
		Dataplane: told.value("dataplane", node.DefaultDataplane),
		Socket:    told.c.String(socketFlag.Name),
		Version:   Version(),
	}
	if cfg.Log, err = newLog(told.c.App.ErrWriter, told.value("log", "text"), told.once("debug") == "true"); err != nil {
		return cfg, err
	}
	capacity := told.value("capacity", strconv.Itoa(node.DefaultCapacity))
	if cfg.Capacity, err = strconv.Atoi(capacity); err != nil {
		return cfg, usagef("capacity %q is not a number", capacity)
	}
	if cfg.Standby, err = strconv.ParseBool(told.value("standby", "false")); err != nil {
		return cfg, usagef("standby is true or false, not %q", told.value("standby", "false"))
	}
	if s := told.once("pool"); s != "" {
		if cfg.Pool, err = netip.ParsePrefix(s); err != nil {
			return cfg, usagef("pool %q is not a prefix such as %s", s, node.DefaultPool)
		}
	}
	if s := told.once("key"); s != "" {
		key, err := readKey(s)
		if err != nil {
			return cfg, err
		}
		cfg.Key = &key
	}
	if s := told.once("join"); s != "" {
		return cfg, readJoin(s, &cfg)
	}
	return cfg, nil
}

// maxKeyFile bounds what is read of a key file, in bytes.
const maxKeyFile = 4096

// readKey reads a cluster key, or the file that holds one.
func readKey(s string) (node.ClusterKey, error) {
	where := "that"
	if path, ok := strings.CutPrefix(s, "file:"); ok {
		f, err := os.Open(path)
		if err != nil {
			hint := "file: takes the path of a file that holds the key"
			return node.ClusterKey{}, &node.HintError{Err: fmt.Errorf("read key: %w", err), Hint: hint}
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
		if err != nil {
			return node.ClusterKey{}, fmt.Errorf("read key: %w", err)
		}
		s, where = string(b), "the content of "+path
	}
	key, err := node.ParseClusterKey(s)
	if err != nil {
		return key, &node.HintError{
			Err:  fmt.Errorf("%s is not a cluster key, or was mistyped", where),
			Hint: "copy all of what `gatemesh key show` prints at a member: gmk1- and 58 characters",
		}
	}
	return key, nil
}

// greeting tells a person at the start how to go on.
type greeting struct {
	out   io.Writer
	cfg   *node.Config
	named bool // the data directory was named
}

func (g greeting) print(s node.Started) {
	me := self()
	ask := me
	switch {
	case g.cfg.Socket != "":
		ask += " --socket " + quote(g.cfg.Socket)
	case g.named:
		ask += " --socket " + quote(filepath.Join(g.cfg.Data, node.SocketName))
	}
	var b strings.Builder
	switch {
	case s.Begun:
		fmt.Fprintf(&b, "This gateway has begun a new cluster.\n\n")
		fmt.Fprintf(&b, "  cluster key   %s\n                (again: %s key show)\n", s.Key, ask)
	case s.Joined:
		fmt.Fprintf(&b, "This gateway has joined its cluster.\n\n")
	default:
		fmt.Fprintf(&b, "This gateway is back in its cluster.\n\n")
	}
	fmt.Fprintf(&b, "  data          %s\n  for devices   %s (UDP)\n  for gateways  %s (TCP and UDP)\n\n", g.cfg.Data, s.Public, s.Mesh)
	if s.Begun {
		fmt.Fprintf(&b, "The next gateway, on another machine of this LAN:\n\n    %s up --key %s\n\n", me, s.Key)
		fmt.Fprintf(&b, "where multicast does not reach, add --join %s. To keep the key out of\n", s.Mesh)
		fmt.Fprintf(&b, "the process list use --key file:PATH or GATEMESH_KEY instead.\n\n")
	}
	fmt.Fprintf(&b, "A device:\n\n    %s device add NAME >NAME.conf      (or --qr for a phone)\n\n", ask)
	_, _ = io.WriteString(g.out, b.String()) // nobody reads it: go on
}

// quote makes s one word of a shell command.
func quote(s string) string {
	if strings.ContainsAny(s, " \t'\"\\$`&|;<>()*?[]#~!") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
