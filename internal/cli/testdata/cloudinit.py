# Runs the data sources of Debian's cloud-init as they are, on a root directory of
# their own, and prints what they have found.
#
#   cloudinit.py PACKAGES ROOT SOURCE CONFIG
#
# PACKAGES is where the package cloudinit is, SOURCE is SmartOS or NoCloud, and CONFIG a
# file as in /etc/cloud/cloud.cfg.d.
import json
import sys

packages, root, source, config = sys.argv[1:]
sys.path.insert(0, packages)

from cloudinit import dmi, helpers, util  # noqa: E402
from cloudinit.sources import DataSourceNoCloud, DataSourceSmartOS  # noqa: E402

# What the firmware says is that of a guest, and files are written below root alone.
dmi.DMI_SYS_PATH = root + "/sys/class/dmi/id"
dmi.is_container = lambda: False
DataSourceSmartOS.LEGACY_USER_D = root + "/var/db"
paths = helpers.Paths({"cloud_dir": root + "/var/lib/cloud", "run_dir": root + "/run/cloud-init"})

cls = {"SmartOS": DataSourceSmartOS.DataSourceSmartOS, "NoCloud": DataSourceNoCloud.DataSourceNoCloud}[source]
ds = cls(util.load_yaml(util.load_file(config)), None, paths)
found = ds.get_data()
client = getattr(ds, "md_client", None)
answer = {"found": found}
if found:
    raw = ds.get_userdata_raw()
    vendor = ds.get_vendordata_raw()
    answer.update(
        instance_id=ds.get_instance_id(),
        hostname=ds.metadata.get("local-hostname"),
        keys=ds.get_public_ssh_keys(),
        user_data=util.decode_binary(raw),
        vendor_data=util.decode_binary(vendor),
        network=ds.network_config if isinstance(ds.network_config, dict) else None,
    )
if client and client.exists():
    # The other requests of its client, as its command line would send them.
    with client:
        answer["list"] = client.list()
        answer["delete"] = client.delete("user-data")  # which is refused
        answer["put"] = client.put("xenchan:configured", "ok")  # the last word
print(json.dumps(answer))
