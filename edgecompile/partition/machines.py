"""Converts the config's cluster into the plan's."""

from __future__ import annotations

from edgecompile.config.cluster_spec import Cluster, ClusterHost
from edgecompile.contract import cluster as plan_cluster
from edgecompile.profile.analytic import Profile

__all__ = ["device_entries", "limits_entry", "network_entry", "spare_hosts"]


def device_entries(cluster: Cluster, profile: Profile) -> tuple[plan_cluster.Device, ...]:
    """The kinds of the cluster; a measured profile knows better what the runtime takes."""
    return tuple(
        plan_cluster.Device(
            name=device.name,
            execution=device.execution.value,
            dtype=device.dtype,
            peak_flops_per_s=device.peak_flops_per_s,
            memory_bytes_per_s=device.memory_bytes_per_s,
            launch_s=device.launch_s,
            memory_bytes=device.memory_bytes,
            runtime_bytes=profile.runtime_bytes[device.name],
            network_bytes_per_s=device.network_bytes_per_s,
            threads=device.threads,
        )
        for device in cluster.devices
    )


def network_entry(cluster: Cluster) -> plan_cluster.Network:
    """The network, with the pairs that were given among the hosts that are there."""
    names = {host.name for host in cluster.hosts}
    return plan_cluster.Network(
        model=cluster.network.value,
        bandwidth_bytes_per_s=cluster.medium_bytes_per_s,
        latency_s=cluster.latency_s,
        pairs=tuple(
            plan_cluster.Pair(source=source, destination=destination, bandwidth_bytes_per_s=rate, latency_s=latency_s)
            for (source, destination), (rate, latency_s) in cluster.pairs.items()
            if {source, destination} <= names and source != destination
        ),
    )


def limits_entry(host: ClusterHost) -> plan_cluster.Limits:
    return plan_cluster.Limits(
        memory_bytes=host.memory_bytes,
        cpu_share=host.cpu_share,
        bandwidth_bytes_per_s=host.bandwidth_bytes_per_s,
    )


def spare_hosts(cluster: Cluster, used: set[int]) -> tuple[plan_cluster.SpareHost, ...]:
    """The hosts that run no rank."""
    return tuple(
        plan_cluster.SpareHost(
            name=host.name,
            address=host.address,
            port=host.port,
            device=host.device,
            threads=host.threads,
            limits=limits_entry(host),
        )
        for index, host in enumerate(cluster.hosts)
        if index not in used
    )
