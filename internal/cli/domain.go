package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/sim"
	"github.com/xenchan/xenchan/internal/xl"
	"github.com/xenchan/xenchan/toolstack"
	"github.com/xenchan/xenchan/xen"
)

// ender ends domains and lets them run: xl, or an embedded host.
type ender interface {
	Unpause(ctx context.Context, id xen.DomID) error
	Destroy(ctx context.Context, id xen.DomID) error
	Reboot(ctx context.Context, id xen.DomID) error
}

func (a *app) destroyCommand() *cobra.Command {
	return a.domainCommand(&cobra.Command{
		Use:   "destroy DOMAIN",
		Short: "End a domain at once",
		Long: `Destroy ends a domain at once, as pulling its plug would; its channels go with it.
It is xl destroy, and works on an embedded host too.`,
		Example: "  xenchan destroy web",
	}, ender.Destroy)
}

func (a *app) rebootCommand() *cobra.Command {
	return a.domainCommand(&cobra.Command{
		Use:   "reboot DOMAIN",
		Short: "Start a domain afresh",
		Long: `Reboot asks a domain's guest to reboot, and returns before it has. It is xl
reboot. The domain comes back with another domid, and without the channels that
xenchan made, except those that are declared. A domain of an embedded host is
not asked, and is there again when reboot returns.`,
		Example: "  xenchan reboot web",
	}, ender.Reboot)
}

func (a *app) unpauseCommand() *cobra.Command {
	return a.domainCommand(&cobra.Command{
		Use:   "unpause DOMAIN",
		Short: "Let a paused domain run",
		Long: `Unpause lets a domain run that was created with --paused. It is xl unpause, and
works on an embedded host too.`,
		Example: "  xenchan create web.cfg --paused\n  xenchan unpause web",
	}, ender.Unpause)
}

func (a *app) domainCommand(cmd *cobra.Command, do func(ender, context.Context, xen.DomID) error) *cobra.Command {
	cmd.Args = args(1, 1)
	cmd.ValidArgsFunction = a.completeDomain
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		w, err := a.locate()
		if err != nil {
			return err
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
		if d.ID == 0 {
			return usagef("%v is this host itself", d)
		}
		var host ender = xl.Maker{}
		if w.dir != "" {
			host = sim.Client{Dir: w.dir}
		}
		err = do(host, cmd.Context(), d.ID)
		if alive, _ := tools.Store.Exists(cmd.Context(), "/local/domain/"+d.ID.String()); !alive {
			awaitDomainGone(cmd.Context(), tools, d.ID)
		}
		return err
	}
	return cmd
}

// awaitDomainGone is awaitGone for all channels of a domain.
func awaitDomainGone(ctx context.Context, tools *toolstack.Toolstack, id xen.DomID) {
	awaitGone(ctx, tools, func(s daemon.Status) bool { return s.DomID == uint16(id) })
}
