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
	var file string
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Serve the channels of this host",
		Long: `Daemon serves every channel whose backend is this domain, those that are there and
those to come, until it is stopped. It leaves channels as they are when it stops:
guests do not notice, and the next daemon goes on.

` + daemonConfigHelp,
		Example: "  xenchan daemon\n  xenchan daemon --config /etc/xenchan/xenchan.toml\n  xenchan daemon --host sim:/tmp/host --verbose",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readDaemonConfig(file)
			if err != nil {
				return err
			}
			if verbose {
				config.Log.Level = slog.LevelDebug
			}
			return a.runDaemon(cmd.Context(), config)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `FILE`")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every change of state and every client")
	return cmd
}

func (a *app) runDaemon(ctx context.Context, config daemonConfig) error {
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
	log := a.logger(config)
	return backend.Run(ctx, backend.Config{
		Store: store, Hypervisor: hv, RunDir: w.runDir(), Log: log,
		Ready: func() {
			log.Info("ready", "run_dir", w.runDir())
			daemon.SdNotify(false, daemon.SdNotifyReady)
		},
	})
}

// logger writes to stderr, where systemd's journal and a terminal both look.
func (a *app) logger(config daemonConfig) *slog.Logger {
	options := &slog.HandlerOptions{Level: config.Log.Level}
	if config.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(a.stderr, options))
	}
	return slog.New(slog.NewTextHandler(a.stderr, options))
}
