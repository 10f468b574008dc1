#!/bin/busybox sh
# First process of the rig's guests, or a service of systemd where that is: loads the modules of the image, says
# "GUEST UP", then becomes /payload if the image has one, else carries out the
# requests that package xlguest sends over the Xen console.
/bin/busybox --install -s /usr/bin 2>/dev/null
[ $$ = 1 ] && [ -x /usr/lib/systemd/systemd ] && [ "$rig_init" != none ] && exec /usr/lib/systemd/systemd
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb PS1= PS2=

# What the kernel runs when xl asks it to shut down; busybox's own wants an init.
printf '#!/bin/sh\nexec busybox poweroff -f\n' >/usr/sbin/poweroff
chmod +x /usr/sbin/poweroff

if [ $$ = 1 ]; then
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -t devtmpfs dev /dev
fi
mount -t tmpfs tmp /tmp
if [ -e /modules/order ]; then
	while read -r m; do insmod "/modules/$m.ko"; done </modules/order
fi
[ -d /proc/xen ] && mount -t xenfs xenfs /proc/xen 2>/dev/null

# The console belongs to the conversation alone: no kernel messages, no echo, no
# limit on the length of a line.
dmesg -n 1
stty raw -echo
read -r up _ </proc/uptime
echo "GUEST UP $up"
[ -x /payload ] && exec /payload

# One request is a line "ID SCRIPT-IN-BASE64"; its answer is the script's output
# between the lines "begin ID" and "end ID STATUS".
while :; do
	while IFS=' ' read -r id script; do
		[ -n "$script" ] || continue
		echo "$script" | base64 -d >"/tmp/$id.sh"
		echo "begin $id"
		sh "/tmp/$id.sh" </dev/null 2>&1
		rc=$?
		rm -f "/tmp/$id.sh"
		echo
		echo "end $id $rc"
	done
done </dev/console >/dev/console 2>&1
