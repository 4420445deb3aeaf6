package client

import "slices"

// routes is the table of every operation, in the order of the specification's
// chapters.
func routes() []route {
	return slices.Concat(
		routesDiscovery(),
		routesLogin(),
		routesRegister(),
		routesAccount(),
		routesFilters(),
		routesSync(),
		routesState(),
		routesMessages(),
		routesRooms(),
		routesMembership(),
		routesDirectory(),
		routesPublicRooms(),
		routesProfile(),
		routesTyping(),
		routesReceipts(),
		routesPushRules(),
		routesDevices(),
		routesAccountData(),
	)
}
