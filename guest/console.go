package guest

// ttys is how many terminals the hvc driver has (HVC_ALLOC_TTY_ADAPTERS in
// drivers/tty/hvc/hvc_console.c).
const ttys = 8

// console is a console device that the driver has taken.
type console struct {
	id   string // console-N
	name string // the channel's
	// dev and bind are inode numbers, of the device's directory and of the link
	// that the driver made when it took the device. kernfs counts them up, so
	// they tell what was first, and one device from another of the same id.
	dev, bind uint64
	life      life
}

// life is how far a console is.
type life int

const (
	// sure is a console that has an interrupt and a terminal.
	sure life = iota
	// unsure is one that is just coming or going, and may have an interrupt.
	unsure
	// dead is of the guest's life before it was restored: it has its terminal still,
	// but nobody serves it.
	dead
)

// key tells a console from all others since the guest was started.
type key struct {
	id   string
	bind uint64
}

func (c console) key() key { return key{c.id, c.bind} }

// irq is an interrupt. Its inode number, of the directory in sysfs, tells it from all
// others that had its number; kernfs counts those up too.
type irq struct {
	number int
	ino    uint64
}

// line is an interrupt that may be a console's.
type line struct {
	irq
	// used says that it has a handler: its terminal is open somewhere.
	used bool
	// ours says that we hold its terminal.
	ours bool
}
