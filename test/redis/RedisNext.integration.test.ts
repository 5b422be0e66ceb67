/**
 * Newer servers: the contracts of drivers and stores, and failovers of Sentinel and Cluster. They run where the environment names the
 * folder of a server's program: `MILLRACE_REDIS_NEXT` that of `redis-server`, `MILLRACE_VALKEY_NEXT` that of `valkey-server`, as in
 * `MILLRACE_VALKEY_NEXT=/usr/bin npx -y pnpm@12 test RedisNext`.
 */
import { Redis as Servers, RedisCluster, RedisSentinel } from "@millrace/testing/servers"
import { describeServer } from "../services/describe.ts"
import { clusterKilled, layers, sentinelKilled } from "./failover.ts"
import { brokerContract, drivers, one, storeContracts } from "./suites.ts"

for (const variable of ["MILLRACE_REDIS_NEXT", "MILLRACE_VALKEY_NEXT"]) {
  const bin = process.env[variable]
  if (bin === undefined) continue
  for (const [name, driver] of drivers) {
    describeServer(`X5 ${name} keep the contract on ${variable}`, Servers.own({ bin }), (server) => {
      brokerContract(name, driver, () => one(server()))
    })
  }
  describeServer(`W5 W6 stores keep their contracts on ${variable}`, Servers.own({ bin }), (server) => {
    storeContracts("Redis", () => ({ url: server().url }))
  })
  describeServer(`X9 Sentinel fails over on ${variable}`, RedisSentinel.own({ bin }), sentinelKilled)
  describeServer(`X9 Cluster fails over on ${variable}`, RedisCluster.own({ bin }), (server) => {
    for (const each of layers) clusterKilled(each, server)
  })
}
