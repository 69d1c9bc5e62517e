package cli

import (
	"encoding/base64"
	"fmt"

	"github.com/pelletier/go-toml/v2"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

// poolKeyFile is where further instances expect the cluster key, unless told otherwise.
const poolKeyFile = "/etc/gatemesh/cluster.key"

func poolCommand() *cli.Command {
	return &cli.Command{
		Name: "pool", Usage: "many gateways of one kind",
		Subcommands: []*cli.Command{{
			Name: "config", Usage: "print the settings of further instances",
			Description: "TOML for `gatemesh up --config FILE`: what this gateway was told, without what is only its own (name, data,\n" +
				"public address), and where to join. With --base64 it is for the environment variable GATEMESH_CONFIG. The\n" +
				"cluster key is only named, as the file that holds it, unless --secrets puts it in.",
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "base64", Usage: "print it in base64, for " + configEnv},
				&cli.BoolFlag{Name: "secrets", Usage: "with the cluster key itself"},
				&cli.StringFlag{Name: "key-file", Usage: "`PATH` of the cluster key at the instances", Value: poolKeyFile},
			},
			Action: poolConfig,
		}},
	}
}

// poolFile is what further instances are told: the keys of `gatemesh up --config`.
type poolFile struct {
	Key       string `toml:"key"`
	Join      string `toml:"join"`
	Listen    string `toml:"listen"`
	Mesh      string `toml:"mesh"`
	Capacity  int    `toml:"capacity"`
	Dataplane string `toml:"dataplane"`
}

func poolConfig(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		p, err := s.PoolConfig(c.Context, c.Bool("secrets"))
		if err != nil {
			return err
		}
		f := poolFile{"file:" + c.String("key-file"), p.Join, p.Listen, p.Mesh, p.Capacity, p.Dataplane}
		if c.Bool("secrets") {
			f.Key = p.Key
		}
		b, err := toml.Marshal(f)
		if err != nil {
			return fmt.Errorf("encode settings: %w", err)
		}
		if c.Bool("base64") {
			_, err = fmt.Fprintln(c.App.Writer, base64.StdEncoding.EncodeToString(b))
			return err
		}
		_, err = fmt.Fprintf(c.App.Writer, "# further gateways of cluster %s\n%s", p.Cluster, b)
		return err
	})
}
