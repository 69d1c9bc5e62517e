package cli

import (
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"gatemesh/node/api"
)

func userCommand() *cli.Command {
	const name = "NAME"
	flags := []cli.Flag{passwordFlag}
	return &cli.Command{
		Name: "user", Usage: "say who may log on as an administrator",
		Subcommands: []*cli.Command{
			{Name: "add", Usage: "make an administrator", ArgsUsage: name, Flags: flags, Action: userAdd},
			{Name: "list", Usage: "list administrators", Flags: []cli.Flag{jsonFlag}, Action: userList},
			{Name: "password", Usage: "give an administrator another password", ArgsUsage: name, Flags: flags, Action: userPassword},
			{Name: "remove", Usage: "forget an administrator", ArgsUsage: name, Action: userRemove},
		},
	}
}

func userAdd(c *cli.Context) error {
	name, err := oneArg(c, "the user's name")
	if err != nil {
		return err
	}
	p, err := newPassword.read(c, c.String(passwordFlag.Name))
	if err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		u, err := s.AddUser(c.Context, api.NewUser{Name: name, Password: p})
		if err == nil {
			_, err = fmt.Fprintf(c.App.Writer, "%s is an administrator\n", u.Name)
		}
		return err
	})
}

func userPassword(c *cli.Context) error {
	name, err := oneArg(c, "the user's name")
	if err != nil {
		return err
	}
	p, err := newPassword.read(c, c.String(passwordFlag.Name))
	if err != nil {
		return err
	}
	return ask(c, func(s api.Service) error { return s.SetPassword(c.Context, name, api.Password{Password: p}) })
}

func userRemove(c *cli.Context) error {
	name, err := oneArg(c, "the user's name")
	if err != nil {
		return err
	}
	return ask(c, func(s api.Service) error { return s.RemoveUser(c.Context, name) })
}

func userList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return ask(c, func(s api.Service) error {
		users, err := s.ListUsers(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, users)
		}
		rows := make([]table.Row, 0, len(users))
		for _, u := range users {
			rows = append(rows, table.Row{u.Name, u.Role, u.Created.Local().Format(time.DateTime)})
		}
		return printTable(c.App.Writer, table.Row{"name", "role", "created"}, rows)
	})
}
