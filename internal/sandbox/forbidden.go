package sandbox

// forbidden are system calls that neither we nor Go's runtime make, and that are
// of use to whoever took a process over. They fail with EPERM. It is a list of what
// is refused, not of what is left, so that a new version of Go works as before;
// the unit has a list of what is left besides.
var forbidden = []string{
	// run programs
	"execve", "execveat", "uselib",
	// become somebody else
	"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups",
	"setfsuid", "setfsgid", "capset", "personality",
	// look into other processes
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
	// change the view of the file system
	"mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount",
	"fsconfig", "fspick", "mount_setattr", "unshare", "setns", "mknod", "mknodat",
	"name_to_handle_at", "open_by_handle_at", "quotactl", "quotactl_fd", "fanotify_init",
	// parts of the kernel with a long record of holes, and keys
	"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
	"add_key", "request_key", "keyctl", "vmsplice", "modify_ldt", "lookup_dcookie", "remap_file_pages",
	"memfd_secret", "move_pages", "migrate_pages", "nfsservctl", "vm86", "vm86old",
	// the machine as a whole
	"init_module", "finit_module", "delete_module", "create_module", "kexec_load", "kexec_file_load",
	"reboot", "swapon", "swapoff", "acct", "syslog", "iopl", "ioperm", "vhangup",
	"settimeofday", "stime", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname",
}
