import { RedisCluster } from "@millrace/testing/servers"
import { describeServer } from "../services/describe.ts"
import { brokerContract, drivers, storeContracts } from "./suites.ts"

/** Three primaries, each with a replica, for all suites of this file: the contract of one server holds on a cluster unchanged. */
describeServer("Redis Cluster", RedisCluster.own(), (server) => {
  // one node is enough to find the others
  const place = () => ({ cluster: server().addresses.slice(0, 1) })
  for (const [name, driver] of drivers) {
    brokerContract(`X5, X3, X4, F13, F3, T16, X9 ${name} on a cluster`, driver, () => ({ ...server(), place: place() }))
  }
  storeContracts("Redis Cluster", place)
})
