"""dss: one neural signed distance field per mesh, inside a dual spherical shell."""
