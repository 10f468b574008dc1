package cli

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	backend "github.com/xenchan/xenchan/internal/daemon"
	"github.com/xenchan/xenchan/internal/fdstore"
	"github.com/xenchan/xenchan/internal/reconcile"
	"github.com/xenchan/xenchan/internal/sys"
	"github.com/xenchan/xenchan/xenstore"
)

func (a *app) daemonCommand() *cobra.Command {
	var verbose bool
	var file, channels string
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Serve the channels of this host",
		Long: `Daemon serves every channel whose backend is this domain, those that are there and
those to come, until it is stopped. It leaves channels as they are when it stops:
guests do not notice, and the next daemon goes on.

In the control domain it also gives domains the channels that drop-in files declare,
see ` + "`xenchan apply --help`" + `, and heeds those that say who may ask guest agents what, see
` + "`xenchan firewall --help`" + `. SIGHUP has it read these files and the level of its log anew.

` + daemonConfigHelp,
		Example: "  xenchan daemon\n  xenchan daemon --config /etc/xenchan/xenchan.toml\n  xenchan daemon --host sim:/tmp/host --verbose",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readDaemonConfig(file)
			if err != nil {
				return err
			}
			config.file, config.verbose = file, verbose
			config.Channels.Dir = cmp.Or(channels, config.Channels.Dir)
			calm()
			return a.runDaemon(cmd.Context(), config)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `FILE`")
	cmd.Flags().StringVar(&channels, "channels-dir", "", "`DIR` of the drop-in files (default "+xenChannelsDir+";\non an embedded host DIR/channels.d)")
	cmd.MarkFlagDirname("channels-dir")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every change of state and every client")
	return cmd
}

func (a *app) runDaemon(ctx context.Context, config daemonConfig) error {
	w, err := a.locate()
	if err != nil {
		return err
	}
	files, err := filesForChannels()
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
	kept, err := fdstore.Inherit()
	if err != nil {
		return err
	}
	defer kept.Close()
	var level slog.LevelVar
	level.Set(config.level())
	log := a.logger(config, &level)
	config.Channels.Dir = cmp.Or(config.Channels.Dir, w.channelsDir())
	config.Firewall.Dir = cmp.Or(config.Firewall.Dir, w.firewallDir())
	rules := openFirewall(config.Firewall.Dir, log)
	about, err := a.confine(w, config, log)
	if err != nil {
		return err
	}
	r := reconcile.New(reconcile.Config{
		Store: store, RunDir: w.runDir(), Dir: config.Channels.Dir, Log: log,
	})
	pulse, every := watchdog()
	routes := r.Routes()
	rules.routes(routes)
	var always slog.LevelVar // what the firewall decides is told at every level
	return backend.Run(ctx, backend.Config{
		Store: store, Hypervisor: hv, RunDir: w.runDir(), Descriptors: kept, Log: log,
		Files: files, SocketDirs: config.socketDirs(), About: about, Pulse: pulse, PulseEvery: every,
		Routes: routes, Firewall: rules.Current, Audit: a.logger(config, &always),
		Beside: func(ctx context.Context) error {
			defer reloadOn(ctx, func() {
				reread(config, &level, log)
				rules.reload()
				r.Reload()
			})()
			return r.Run(ctx)
		},
		Rested: giveBack,
		Ready:  whenReady(w.runDir(), log, startLean()),
	})
}

// monitorSlack is how long a system call of the daemon may keep the others waiting, if
// it blocks against all expectations; see [sys.CalmMonitor]. The unit says the same.
const monitorSlack = 5 * time.Millisecond

// calm has the Go runtime interfere less. Without root's rights it is for the service
// manager to do.
func calm() { _ = sys.CalmMonitor(monitorSlack) }

func whenReady(runDir string, log *slog.Logger, started func()) func() {
	return func() {
		started()
		log.Info("ready", "run_dir", runDir)
		daemon.SdNotify(false, daemon.SdNotifyReady)
	}
}

// startLean has garbage collected early while thousands of channels may start: what each
// of them needs only then would lie between what stays. started ends that.
func startLean() (started func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(30)
	return func() { debug.SetGCPercent(before) }
}

// giveBack gives back what the start of many channels took and nothing needs any more.
// A stack shrinks by half each time.
func giveBack() {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
}

// watchdog is what tells a service manager that the daemon is alive, and how
// often, if it wants to know (sd_watchdog_enabled(3)).
func watchdog() (pulse func(), every time.Duration) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return nil, 0
	}
	return func() { daemon.SdNotify(false, daemon.SdNotifyWatchdog) }, limit / 2
}

// reloadOn reloads at each SIGHUP until the context ends; then what it returns is to
// be called.
func reloadOn(ctx context.Context, reload func()) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go reloadAt(ctx, hangups, reload)
	return func() { signal.Stop(hangups) }
}

// reloadAt has a service manager wait for the end of what it has asked for
// (sd_notify(3), RELOADING=1).
func reloadAt(ctx context.Context, hangups <-chan os.Signal, reload func()) {
	for {
		select {
		case <-hangups:
			daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
			reload()
			daemon.SdNotify(false, daemon.SdNotifyReady)
		case <-ctx.Done():
			return
		}
	}
}

// reread takes over what can change while the daemon runs: the level of its log.
// A file with an error changes nothing.
func reread(config daemonConfig, level *slog.LevelVar, log *slog.Logger) {
	now, err := readDaemonConfig(config.file)
	if err != nil {
		log.Error("configuration stays as it is", "error", err)
		return
	}
	now.verbose = config.verbose
	level.Set(now.level())
	log.Info("reloaded")
}

// logger writes to stderr, where systemd's journal and a terminal both look.
func (a *app) logger(config daemonConfig, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if config.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(a.stderr, options))
	}
	return slog.New(slog.NewTextHandler(a.stderr, options))
}
