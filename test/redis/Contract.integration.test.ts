import { Redis as Servers } from "@millrace/testing/servers"
import { describeServer } from "../services/describe.ts"
import { keepsRow } from "../services/row.ts"
import { brokerContract, drivers, one } from "./suites.ts"

/** Redis under the suites, a copy of its own each, since they kill it. */
for (const [name, driver] of drivers) {
  describeServer(`X5, X3, X4, F13, F3, T16, X9 ${name} keep the contract`, Servers.own(), (server) => {
    keepsRow(name, brokerContract(name, driver, () => one(server())))
  })
}
