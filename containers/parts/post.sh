# shellcheck shell=sh disable=SC2154
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
umask 022

# Given by `safe container build` for the time of the build, empty otherwise: /mnt with the host's certificates, which
# a network that inspects TLS needs, and /media with wheels for a build without the network.
apt="apt-get -qq -o APT::Install-Recommends=false -o APT::Sandbox::User=root"
if [ -f /mnt/ca.pem ]; then
  export PIP_CERT=/mnt/ca.pem
  apt="$apt -o Acquire::https::CAInfo=/mnt/ca.pem"
fi

$apt update
# shellcheck disable=SC2086  # lists of words
$apt install -y $system_packages
# slurm.conf names the user; clients refuse to start where it does not exist.
id slurm >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin slurm
mkdir -p /etc/slurm /run/munge

python3 -m venv /opt/safe
# shellcheck disable=SC2086  # a list of words
/opt/safe/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --require-hashes \
  $pip_options -r /opt/source/requirements/lock.txt
/opt/safe/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --no-index \
  --no-deps --no-build-isolation /opt/source
# What is not in the wheel, whose names other projects have too: found after everything that is installed.
mkdir /opt/safe/checkout
cp -RL /opt/source/configs /opt/source/experiments /opt/safe/checkout/
echo /opt/safe/checkout >"$(/opt/safe/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/checkout.pth"

install -m 755 /opt/source/containers/parts/slurm_shim.sh /opt/safe/slurm_shim
for command in sbatch srun squeue scancel; do ln -s /opt/safe/slurm_shim "/usr/local/bin/$command"; done

{
  # shellcheck disable=SC2016  # dpkg-query's own format
  dpkg-query -W -f '${Package} ${Version}\n'
  /opt/safe/bin/python -m pip list --disable-pip-version-check --format freeze
} >/opt/safe/packages.txt
cp /opt/source/containers/manifest.py /tmp/manifest.py

# What would differ between two builds of the same specification.
rm -rf /opt/source /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/cache/debconf/*-old /var/log/* \
  /var/lib/dpkg/*-old /etc/*- /var/lib/systemd/* /root/.cache
find / -xdev -name __pycache__ -type d -prune -exec rm -rf {} +
rm -f /etc/machine-id /var/lib/dbus/machine-id /etc/hostname
find /opt/safe -name direct_url.json -delete
sed -i 's/^\([^:]*:[^:]*\):[0-9]*:/\1:20000:/' /etc/shadow
# There are no secrets in it, and whoever runs it may compare it.
find /etc /opt /usr /var -xdev ! -type l ! -perm -o=r -exec chmod a+rX {} +

python3 -B /tmp/manifest.py / >/opt/safe/manifest.txt
rm /tmp/manifest.py
manifest=$(sha256sum </opt/safe/manifest.txt)
echo "org.safe.manifest ${manifest%% *}" >>"$APPTAINER_LABELS"
