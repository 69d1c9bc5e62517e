package cli

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"gatemesh/node"
	"gatemesh/node/api"
)

func claimCodeCommand() *cli.Command {
	return &cli.Command{
		Name: "claim-code", Usage: "show the code with which another cluster can take this gateway over",
		Description: "A gateway that is to join a cluster shows the code; at a member of that cluster it is used with\n" +
			"`gatemesh gateway add`. Until the code was shown once the gateway cannot be taken over, and it is used up then.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "renew", Usage: "make another one; the old one is good for nothing then"},
			jsonFlag,
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			return ask(c, func(s api.Service) error {
				code, err := s.ClaimCode(c.Context, api.ClaimCodeQuery{Renew: c.Bool("renew")})
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, code)
				}
				fmt.Fprintf(c.App.ErrWriter, "fingerprint %s\nat a member of the cluster: gatemesh gateway add %s\n",
					code.Fingerprint, code.Mesh)
				_, err = fmt.Fprintln(c.App.Writer, code.Code)
				return err
			})
		},
	}
}

func gatewayAddCommand() *cli.Command {
	return &cli.Command{
		Name: "add", Usage: "have a gateway that runs elsewhere give up its cluster and join this one",
		ArgsUsage: "HOST[:PORT]",
		Description: "HOST[:PORT] is where its mesh listens. It needs the code that `gatemesh claim-code` shows there. Before\n" +
			"anything changes you are told what it would lose; it keeps a copy of that.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "code", Usage: "`file:PATH` of a file with its claim code; else GATEMESH_CLAIM_CODE, else it is asked for"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask"},
			&cli.BoolFlag{Name: "force", Usage: "also if other gateways are connected to it, which go on without it"},
			jsonFlag,
		},
		Action: gatewayAdd,
	}
}

func gatewayAdd(c *cli.Context) error {
	where, err := oneArg(c, "the address of the gateway's mesh")
	if err != nil {
		return err
	}
	if given := c.String("code"); given != "" && !strings.HasPrefix(given, "file:") {
		return usagef("the code is a secret, and arguments can be seen by others: use --code file:PATH, or GATEMESH_CLAIM_CODE")
	}
	code, err := claimCode.read(c, c.String("code"))
	if err != nil {
		return err
	}
	at := api.GatewayAt{Address: where, Code: code, Force: c.Bool("force")}
	return ask(c, func(s api.Service) error {
		found, err := s.LookAt(c.Context, at)
		if err != nil {
			return err
		}
		fmt.Fprint(c.App.ErrWriter, candidateText(found))
		if found.Connected > 0 && !at.Force {
			return &node.HintError{
				Err:  fmt.Errorf("%d other gateways are connected to it", found.Connected),
				Hint: "add them one by one with --force, or remove it from that cluster first",
			}
		}
		if !c.Bool("yes") {
			if err := agree(c, "Replace all of that by this cluster's?", "--yes"); err != nil {
				return err
			}
		}
		at.Fingerprint = found.Fingerprint
		added, err := s.AddGateway(c.Context, at)
		if err != nil {
			return err
		}
		return printAdded(c, added)
	})
}

// candidateText says what a gateway is and would lose.
func candidateText(g api.Candidate) string {
	return fmt.Sprintf("gateway      %s\nfingerprint  %s\nversion      %s\nits cluster  %s, %s\nto be lost   %s, and its settings; it keeps a copy\n",
		dash(g.Name), g.Fingerprint, dash(g.Version), g.Cluster, count(g.Gateways, "gateway"), count(g.Devices, "device"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func printAdded(c *cli.Context, a api.AddedGateway) error {
	var err error
	if c.Bool("json") {
		err = printJSON(c.App.Writer, a)
	} else {
		_, err = fmt.Fprintf(c.App.Writer, "gateway  %s\nid       %s\njoined   %v\nsaved    %s (there)\n", dash(a.Name), a.ID,
			a.Joined, a.Saved)
	}
	if err == nil && !a.Joined {
		err = &node.HintError{
			Err:  fmt.Errorf("%s was told to join and has not come yet", dash(a.Name)),
			Hint: "`gatemesh gateway list` shows when it has; if it cannot within ten minutes it is again what it was",
		}
	}
	return err
}

// trust asks a person whether a fingerprint is the right one, unless the right one was given.
func trust(c *cli.Context, where fmt.Stringer, fingerprint, want string) error {
	want = strings.ToLower(strings.TrimSpace(want))
	switch {
	case want == fingerprint:
		return nil
	case want != "":
		return &node.HintError{
			Err:  fmt.Errorf("the gateway at %s has the fingerprint %s, not %s", where, fingerprint, want),
			Hint: "somebody may be in between: find out before you log on",
		}
	}
	fmt.Fprintf(c.App.ErrWriter, "The gateway at %s has the fingerprint\n\n    %s\n\n", where, fingerprint)
	fmt.Fprintf(c.App.ErrWriter, "It is the id that `gatemesh gateway list` shows for it at any member.\n")
	return agree(c, "Is it the right one?", "--fingerprint "+fingerprint+" if it is that gateway's id in `gatemesh gateway list`")
}

// logonFlags are those of a join with an administrator's password.
func logonFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "user", Usage: "log on at --join as administrator `NAME`, in place of a key or a token",
			EnvVars: env("USER"),
		},
		passwordFlag,
		&cli.StringFlag{Name: "fingerprint", Usage: "`ID` of the gateway at --join, as its gateway list has it; else it is asked for", EnvVars: env("FINGERPRINT")},
	}
}

// logon is how the person that starts a gateway is asked; nil if it does not log on.
func logon(told choices) (*node.Logon, error) {
	user, join, path := told.once("user"), told.once("join"), told.once(passwordFlag.Name)
	switch {
	case user == "" && path != "":
		return nil, usagef("--password-file is for a log-on with --user")
	case user == "":
		return nil, nil
	case join == "":
		return nil, usagef("--user logs on at a member: name it with --join HOST")
	case node.IsJoinToken(join) || strings.HasPrefix(join, "file:"):
		return nil, usagef("--join is a token, which needs no --user")
	}
	return &node.Logon{
		User: user,
		Trust: func(where netip.AddrPort, fingerprint string) error {
			return trust(told.c, where, fingerprint, told.once("fingerprint"))
		},
		Password: func() (string, error) { return password.read(told.c, path) },
	}, nil
}
