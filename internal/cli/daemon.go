package cli

import (
	"context"
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	backend "github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/xenstore"
)

func (a *app) daemonCommand() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Serve the channels of this host",
		Long: `Daemon serves every channel whose backend is this domain, those that are there and
those to come, until it is stopped. It leaves channels as they are when it stops:
guests do not notice, and the next daemon goes on.`,
		Example: "  xenchan daemon\n  xenchan daemon --host sim:/tmp/host --verbose",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runDaemon(cmd.Context(), verbose)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every change of state and every client")
	return cmd
}

func (a *app) runDaemon(ctx context.Context, verbose bool) error {
	w, err := a.locate()
	if err != nil {
		return err
	}
	hv, err := a.openHypervisor(ctx, w, 0)
	if err != nil {
		return err
	}
	defer hv.Close()
	stream, err := hv.OpenStore(ctx)
	if err != nil {
		return err
	}
	store := xenstore.New(stream)
	defer store.Close()
	log := a.logger(verbose)
	return backend.Run(ctx, backend.Config{
		Store: store, Hypervisor: hv, RunDir: w.runDir(), Log: log,
		Ready: func() {
			log.Info("ready", "run_dir", w.runDir())
			daemon.SdNotify(false, daemon.SdNotifyReady)
		},
	})
}

// logger writes to stderr, where systemd's journal and a terminal both look.
func (a *app) logger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}
