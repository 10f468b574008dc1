package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/channel"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
)

func (a *app) createCommand() *cobra.Command {
	var paused bool
	cmd := &cobra.Command{
		Use:    "create FILE",
		Short:  "Make a domain with its channels",
		Long:   `Create makes a domain of an embedded host, with the channels of its configuration.`,
		Hidden: true,
		Example: `  xenchan create web.cfg
  xenchan create web.cfg --paused`,
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := a.locate()
			if err != nil {
				return err
			}
			if w.dir == "" {
				return usagef("create works on an embedded host only")
			}
			domains, err := a.readDomains(w.dir, args)
			if err != nil {
				return err
			}
			tools, err := a.toolstack(cmd.Context())
			if err != nil {
				return err
			}
			defer tools.Store.Close()
			d, err := tools.Create(cmd.Context(), simMaker{sim.Client{Dir: w.dir}, domains[0]}, domains[0].Channels, paused)
			if err != nil {
				return err
			}
			channels, err := tools.Channels(cmd.Context(), d)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(newCreated(d, channels))
			}
			return a.printRows(channels)
		},
	}
	cmd.Flags().BoolVar(&paused, "paused", false, "leave the domain paused")
	return cmd
}

// created is the form of a new domain in JSON.
type created struct {
	DomID    xen.DomID      `json:"domid"`
	Domain   string         `json:"domain"`
	UUID     string         `json:"uuid"`
	Channels []channel.Info `json:"channels"`
}

func newCreated(d toolstack.Domain, channels []toolstack.Channel) created {
	c := created{DomID: d.ID, Domain: d.Name, UUID: d.UUID, Channels: []channel.Info{}}
	for _, ch := range channels {
		c.Channels = append(c.Channels, ch.Info)
	}
	return c
}

// simMaker makes one domain of an embedded host.
type simMaker struct {
	sim.Client
	domain sim.Domain
}

func (m simMaker) Create(ctx context.Context) (toolstack.Domain, error) {
	return m.Client.Create(ctx, m.domain.Name, m.domain.UUID)
}

// domainCommands are xl's commands of the same name.
func (a *app) domainCommands() []*cobra.Command {
	var all []*cobra.Command
	for _, c := range []struct {
		name, short, long string
		do                func(context.Context, sim.Client, xen.DomID) error
	}{
		{"destroy", "End a domain at once", "Destroy ends a domain of an embedded host at once.",
			func(ctx context.Context, c sim.Client, id xen.DomID) error { return c.Destroy(ctx, id) }},
		{"reboot", "Start a domain afresh", "Reboot ends a domain of an embedded host and makes it again, with a new domid and no channels.",
			func(ctx context.Context, c sim.Client, id xen.DomID) error { return c.Reboot(ctx, id) }},
		{"unpause", "Let a paused domain run", "Unpause lets a domain of an embedded host run that was created with --paused.",
			func(ctx context.Context, c sim.Client, id xen.DomID) error { return c.Unpause(ctx, id) }},
	} {
		all = append(all, &cobra.Command{
			Use: c.name + " DOMAIN", Short: c.short, Long: c.long, Example: fmt.Sprintf("  xenchan %s web", c.name),
			Hidden:            true,
			Args:              args(1, 1),
			ValidArgsFunction: a.completeDomain,
			RunE: func(cmd *cobra.Command, args []string) error {
				w, err := a.locate()
				if err != nil {
					return err
				}
				if w.dir == "" {
					return usagef("%s works on an embedded host only: `xl %s %s`", c.name, c.name, args[0])
				}
				tools, err := a.toolstack(cmd.Context())
				if err != nil {
					return err
				}
				defer tools.Store.Close()
				d, err := tools.Resolve(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.do(cmd.Context(), sim.Client{Dir: w.dir}, d.ID)
			},
		})
	}
	return all
}
